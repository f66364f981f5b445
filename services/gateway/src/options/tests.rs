//! Neighbouring protocols talk, and tenants have shares.

use super::*;

#[test]
fn neighbouring_versions_have_one_in_common() {
    let (old, new) = (ProtocolRange { lowest: 1, highest: 2 }, ProtocolRange { lowest: 2, highest: 3 });
    // a leader chooses the highest that both speak
    let chosen = old.highest.min(new.highest);
    assert!(old.contains(chosen) && new.contains(chosen));
    assert!(!old.contains(0) && !old.contains(3) && !new.contains(1));
}

#[test]
fn tenants_have_a_share_and_only_listed_ones_a_label() {
    let two = NonZeroU32::new(2).unwrap();
    let tenants = Tenants { weights: [("lab".to_owned(), two)].into() };
    assert_eq!((tenants.weight("lab"), tenants.weight("x")), (two, NonZeroU32::MIN));
    assert_eq!([tenants.label("lab"), tenants.label("default"), tenants.label("x")], ["lab", "default", "other"]);
}
