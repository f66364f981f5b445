//! The tenants that are told apart: as long as a tenant is a header that anybody may write, there must not be any number of
//! them. So many that were seen lately have their own names, and the rest are one tenant together.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::core::TenantId;
use crate::options::{DEFAULT_TENANT, Tenants};

/// Names that were seen, and when last.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<TenantId, Instant>>);

/// So many, beside those that have a share of their own.
const MOST: usize = 1000;
/// What the rest are called.
const OTHERS: &str = "other";
/// A name that was not seen for so long gives way to another.
const LATELY: Duration = Duration::from_secs(60);

// === impl Names ===

impl Names {
    /// Who a call is charged to that gives this name now.
    pub(super) fn of(&self, given: &TenantId, tenants: &Tenants, now: Instant) -> TenantId {
        if given.as_str() == DEFAULT_TENANT || tenants.0.contains_key(given.as_str()) {
            return given.clone();
        }
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST && !seen.contains_key(given) {
            seen.retain(|_, last| now.duration_since(*last) < LATELY);
            if seen.len() >= MOST {
                return TenantId::new(OTHERS);
            }
        }
        seen.insert(given.clone(), now);
        given.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_are_told_apart_and_those_of_old_give_way() {
        let (names, now) = (Names::default(), Instant::now());
        let tenants = Tenants([("heavy".to_owned(), std::num::NonZeroU32::MIN)].into());
        let of = |name: &str, at| names.of(&TenantId::new(name), &tenants, at).as_str().to_owned();
        for number in 0..MOST {
            assert_eq!(of(&format!("t{number}"), now), format!("t{number}"));
        }
        assert_eq!((of("new", now), of("t7", now)), (OTHERS.to_owned(), "t7".to_owned()));
        assert_eq!((of("heavy", now), of(DEFAULT_TENANT, now)), ("heavy".to_owned(), DEFAULT_TENANT.to_owned()));
        let later = now + LATELY;
        assert_eq!((of("new", later), of("t7", later)), ("new".to_owned(), "t7".to_owned()));
        assert_eq!(names.0.lock().unwrap().len(), 2);
    }
}
