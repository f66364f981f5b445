//! Nothing yet, but soon there are tests.
