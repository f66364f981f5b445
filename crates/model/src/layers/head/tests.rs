//! A head's outputs are sums over the ranks' columns.

use candle_core::Device;

use super::*;

#[test]
fn each_output_is_the_sum_of_the_ranks_parts() {
    // three outputs of rows with four numbers, on two ranks
    let weight: Vec<f32> = (1..=12).map(|w| w as f32).collect();
    let rows = Tensor::new(&[[1.0f32, 10.0, 100.0, 1000.0], [1.0, 0.0, 0.0, -1.0]], &Device::Cpu).unwrap();
    let of_rank = |columns| {
        let mut partials = Partials::empty(3);
        Head::new(&weight, 3, columns).forward(&rows, &mut partials).unwrap();
        partials
    };
    let (first, second) = (of_rank(0..2), of_rank(2..4));
    assert_eq!(first.get(0).unwrap().values, [21.0, 65.0, 109.0]);
    assert_eq!(second.get(0).unwrap().values, [4300.0, 8700.0, 13100.0]);
    assert_eq!(second.get(1).unwrap().values, [-4.0, -8.0, -12.0]);
    let checksums = |partials: &Partials| partials.iter().map(|partial| partial.checksum).collect::<Vec<_>>();
    assert_eq!(checksums(&first), checksums(&second), "of the whole row, on every rank");
    assert_ne!(checksums(&first)[0], checksums(&first)[1]);
}
