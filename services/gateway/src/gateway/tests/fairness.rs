//! Who waits for how long when somebody else floods the gateway.
