//! Every row belongs to one rank, whatever the numbers are.

use super::*;

#[test]
fn slices_are_consecutive_and_differ_by_one_row_at_most() {
    for world_size in 1..=9 {
        for rows in 0..=40 {
            let split = RowSplit::new(rows, world_size);
            let slices: Vec<_> = (0..world_size).map(|rank| split.range(rank)).collect();
            assert_eq!(slices.iter().cloned().flatten().collect::<Vec<_>>(), (0..rows).collect::<Vec<_>>());
            let lengths: Vec<_> = slices.iter().map(Range::len).collect();
            assert!(lengths.is_sorted_by(|one, next| one >= next), "{lengths:?}");
            assert_eq!(lengths[0], split.longest());
            assert!(lengths[0] - lengths[world_size - 1] <= 1, "{lengths:?}");
            assert_eq!(split.is_even(), lengths[0] == lengths[world_size - 1]);
        }
    }
}

#[test]
fn the_first_ranks_take_what_is_left_over() {
    let split = RowSplit::new(11, 4);
    assert_eq!([0, 1, 2, 3].map(|rank| split.range(rank)), [0..3, 3..6, 6..9, 9..11]);
    assert_eq!((split.rows(), split.world_size()), (11, 4));
}

#[test]
fn there_may_be_fewer_rows_than_ranks_and_no_rows_at_all() {
    let split = RowSplit::new(2, 3);
    assert_eq!([0, 1, 2].map(|rank| split.range(rank)), [0..1, 1..2, 2..2]);
    assert!(RowSplit::new(0, 3).range(1).is_empty());
    assert!(split.range(7).is_empty());
    assert_eq!(RowSplit::new(5, 0).range(0), 0..5);
}
