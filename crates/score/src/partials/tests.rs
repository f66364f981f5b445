//! Contributions are found again in their places.

use super::*;

#[test]
fn contributions_are_rows_of_values() {
    let partials = Partials::new(2, vec![1.0, 2.0, 3.0, 4.0], vec![7, 8]).unwrap();
    assert_eq!((partials.len(), partials.outputs(), partials.is_empty()), (2, 2, false));
    assert_eq!(partials.get(1), Some(Partial { values: &[3.0, 4.0], checksum: 8 }));
    assert_eq!(partials.get(2), None);
    let selected = partials.select(&[1, 1, 9, 0]);
    assert_eq!(selected.clone().into_parts(), (vec![3.0, 4.0, 3.0, 4.0, 1.0, 2.0], vec![8, 8, 7]));
    assert_eq!(selected.iter().map(|partial| partial.checksum).collect::<Vec<_>>(), [8, 8, 7]);
    let mut pushed = Partials::empty(2);
    partials.iter().for_each(|partial| pushed.push(partial));
    assert_eq!(pushed, partials);
}

#[test]
fn values_that_do_not_fit_their_checksums_are_refused() {
    let refused = |outputs, values: usize, checksums: usize| {
        Partials::new(outputs, vec![0.0; values], vec![0; checksums]).unwrap_err().to_string()
    };
    assert_eq!(refused(1, 1, 0), "1 partial logits and 0 checksums, for 1 outputs each");
    assert_eq!(refused(2, 3, 2), "3 partial logits and 2 checksums, for 2 outputs each");
    assert_eq!(refused(0, 0, 2), "0 partial logits and 2 checksums, for 0 outputs each");
}
