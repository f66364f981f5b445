//! A row of a projection has the same bits in any company, on any number of threads and, summed, on every rank.

use std::thread;

use candle_core::Device;
use collective::threads;

use super::*;

const SHAPES: [(usize, usize); 19] = [
    (64, 64),
    (64, 128),
    (64, 512),
    (64, 384),
    (192, 64),
    (512, 64),
    (1024, 1024),
    (1024, 512),
    (128, 96),
    (1000, 70),
    (4096, 256),
    // what ranks of small models hold: narrow, or a depth that is no multiple of anything
    (64, 16),
    (100, 8),
    (333, 65),
    (700, 24),
    (4096, 64),
    (4096, 65),
    (5000, 80),
    // narrow, and a depth that the matmul's two blockings divide differently: 512 + 488, and 500 + 500
    (1000, 64),
];

const ROWS: [usize; 31] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 66, 100, 127, 128, 129, 200, 256, 257,
    511, 512,
];

/// Numbers in [-1, 1) that look like noise; `seed` tells matrices apart.
fn noise(seed: u32, rows: usize, columns: usize) -> Tensor {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    Tensor::from_vec((0..rows * columns).map(|_| next()).collect(), (rows, columns), &Device::Cpu).unwrap()
}

fn bits(x: &Tensor) -> Vec<Vec<u32>> {
    let rows = x.to_vec2::<f32>().unwrap();
    rows.iter().map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}

fn on_threads<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

#[test]
fn a_row_has_the_same_bits_in_any_number_of_rows() {
    for (depth, width) in SHAPES {
        let linear = Linear::own(noise(1, depth, width));
        let x = noise(2, 640, depth);
        let all = bits(&linear.forward(&x).unwrap());
        for rows in ROWS {
            for offset in [0, 1, 128] {
                let part = bits(&linear.forward(&x.narrow(0, offset, rows).unwrap()).unwrap());
                let same = part == all[offset..offset + rows];
                assert!(same, "{depth} to {width}: {rows} rows from {offset} differ from the same rows of 640");
            }
        }
    }
}

#[test]
fn a_row_is_the_product_it_should_be() {
    for (depth, width) in SHAPES {
        let (weight, x) = (noise(3, depth, width), noise(4, 5, depth));
        let product = Linear::own(weight.clone()).forward(&x).unwrap().to_vec2::<f32>().unwrap();
        let (weight, x) = (weight.to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
        for (x, product) in x.iter().zip(&product) {
            for (column, &got) in product.iter().enumerate() {
                let products = x.iter().zip(&weight).map(|(&x, row)| f64::from(x) * f64::from(row[column]));
                let (want, size) =
                    products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()));
                assert!((f64::from(got) - want).abs() <= 1e-6 * size, "{depth} to {width}: {got} and not {want}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for (depth, width) in SHAPES {
        let linear = Linear::own(noise(5, depth, width));
        for rows in [1, 7, 65, 300] {
            let x = noise(6, rows, depth);
            let forward = |threads| on_threads(threads, || bits(&linear.forward(&x).unwrap()));
            let one = forward(1);
            assert!(forward(2) == one && forward(3) == one, "{depth} to {width}, {rows} rows");
        }
    }
}

#[test]
fn ranks_that_split_the_input_agree_on_the_whole() {
    for (depth, width) in [(64, 64), (192, 64), (1024, 96), (4096, 256)] {
        let weight = noise(7, depth, width);
        for world_size in [2, 4] {
            let own = depth / world_size;
            let forward = |end: collective::Threads, rows: usize| {
                let (rank, end) = (end.rank(), Arc::new(end));
                let linear = Linear::summed(weight.narrow(0, rank * own, own).unwrap().contiguous().unwrap(), end);
                let x = noise(8, rows, depth).narrow(1, rank * own, own).unwrap().contiguous().unwrap();
                linear.forward(&x).unwrap()
            };
            for rows in [1, 3, 70] {
                let sums: Vec<Tensor> = thread::scope(|scope| {
                    let ranks: Vec<_> =
                        threads(world_size).into_iter().map(|end| scope.spawn(|| forward(end, rows))).collect();
                    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
                });
                let whole = Linear::own(weight.clone()).forward(&noise(8, rows, depth)).unwrap();
                assert!(sums.iter().all(|sum| bits(sum) == bits(&sums[0])), "{depth} to {width}: the ranks differ");
                let difference = (&sums[0] - whole).unwrap().abs().unwrap().max_all().unwrap();
                let difference = difference.to_scalar::<f32>().unwrap();
                assert!(difference < 1e-6 * depth as f32, "{depth} to {width}, {world_size} ranks: {difference}");
            }
        }
    }
}

#[test]
fn a_row_of_another_length_is_an_error() {
    let linear = Linear::own(noise(9, 64, 32));
    assert!(linear.forward(&noise(10, 3, 63)).is_err());
    assert!(linear.forward(&noise(10, 80, 65)).is_err());
}
