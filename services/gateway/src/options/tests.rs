//! Tenants have shares, and names in metrics that clients cannot make up.

use super::*;

#[test]
fn tenants_have_a_share_and_only_listed_ones_a_label() {
    let two = NonZeroU32::new(2).unwrap();
    let tenants = Tenants([("lab".to_owned(), two)].into());
    assert_eq!((tenants.weight("lab"), tenants.weight("x")), (two, NonZeroU32::MIN));
    assert_eq!([tenants.label("lab"), tenants.label("default"), tenants.label("x")], ["lab", "default", "other"]);
}
