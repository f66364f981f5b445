//! No single change gets past a checksum.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_row_with_one_bit_or_another_token_has_another_checksum(
        bits in prop::collection::vec(any::<u32>(), 1..40), place in any::<prop::sample::Index>(), bit in 0u32..32,
        tokens in any::<[u32; 2]>(),
    ) {
        let row: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let mut other = bits;
        let place = place.index(other.len());
        other[place] ^= 1 << bit;
        let other: Vec<f32> = other.iter().map(|bits| f32::from_bits(*bits)).collect();
        prop_assert_ne!(of_embedded(tokens[0], &row), of_embedded(tokens[0], &other));
        prop_assert_eq!(of_embedded(tokens[0], &row) == of_embedded(tokens[1], &row), tokens[0] == tokens[1]);
    }
}

#[test]
fn what_changes_places_is_noticed() {
    let row: Vec<f32> = (0..24).map(|x| x as f32).collect();
    let whole = of_embedded(7, &row);
    for (a, b) in [(0, 1), (0, 2), (1, 9), (0, 8), (3, 23)] {
        let mut swapped = row.clone();
        swapped.swap(a, b);
        assert_ne!(of_embedded(7, &swapped), whole, "{a} and {b}");
    }
    assert_ne!(fold(fold(0, 1), 2), fold(fold(0, 2), 1));
}

#[test]
fn what_is_covered_follows_the_version() {
    assert_eq!([1, 2, 3].map(Checksum::of_version), [Checksum::Row, Checksum::Path, Checksum::Path]);
}
