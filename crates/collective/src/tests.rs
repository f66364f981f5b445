//! Sums in rank order, broadcasts, and ranks that leave.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use candle_core::{Device, Tensor};

use super::*;

fn on_each_rank<T: Send>(world_size: usize, work: impl Fn(&Threads) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let ranks: Vec<_> = threads(world_size).into_iter().map(|rank| scope.spawn(|| work(&{ rank }))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

#[test]
fn all_reduce_adds_in_rank_order_and_agrees_on_every_rank() {
    // 1e8 + 1 - 1e8 is 0 in this order and 1 in others
    let parts = [1e8_f32, 1.0, -1e8];
    for _ in 0..100 {
        let sums =
            on_each_rank(3, |rank| rank.all_reduce(tensor(&[parts[rank.rank()]])).unwrap().to_vec1::<f32>().unwrap());
        assert_eq!(sums, vec![vec![0.0]; 3]);
    }
}

#[test]
fn many_meetings_stay_in_step() {
    let sums = on_each_rank(4, |rank| {
        (0..500)
            .map(|i| {
                let own = tensor(&[(i * (rank.rank() + 1)) as f32]);
                rank.all_reduce(own).unwrap().to_vec1::<f32>().unwrap()[0]
            })
            .collect::<Vec<_>>()
    });
    let expected: Vec<f32> = (0..500).map(|i| (i * 10) as f32).collect();
    assert!(sums.iter().all(|of_rank| *of_rank == expected));
}

#[test]
fn broadcast_gives_the_roots_tensor_to_all() {
    let got = on_each_rank(3, |rank| {
        let own = tensor(&[rank.rank() as f32]);
        rank.broadcast(Some(own), 2).unwrap().to_vec1::<f32>().unwrap()
    });
    assert_eq!(got, vec![vec![2.0]; 3]);
}

#[test]
fn a_broadcast_of_nothing_is_an_error_on_every_rank() {
    let got = on_each_rank(2, |rank| rank.broadcast(None, 0).map(drop).unwrap_err().to_string());
    assert_eq!(got, vec!["rank 0 has nothing to broadcast to a world of 2"; 2]);
    assert!(Solo.broadcast(None, 0).is_err());
    assert!(Solo.broadcast(Some(tensor(&[1.0])), 1).is_err());
}

#[test]
fn a_rank_that_leaves_frees_those_that_wait() {
    let got = on_each_rank(3, |rank| match rank.rank() {
        1 => None,
        _ => Some(rank.all_reduce(tensor(&[1.0])).map(drop).unwrap_err().to_string()),
    });
    assert_eq!(got[0].as_deref(), got[2].as_deref());
    assert_eq!(got[0].as_deref(), Some("rank 1 has left the collective"));
}

#[test]
fn shapes_that_differ_are_an_error_not_a_hang() {
    let got = on_each_rank(2, |rank| rank.all_reduce(tensor(&vec![0.0; rank.rank() + 1])).map(drop).is_err());
    assert_eq!(got, vec![true, true]);
}

#[test]
fn a_seat_is_taken_in_one_collective_after_another() {
    let seats: Vec<Seat> = (0..2).map(|rank| Seat::new(rank, 2)).collect();
    let sum = |seat: &Seat| seat.all_reduce(tensor(&[1.0])).map(|sum| sum.to_vec1::<f32>().unwrap());
    assert!(matches!(sum(&seats[1]), Err(Error::RankLeft { rank: 1 })), "nobody sits there yet");
    for _ in 0..3 {
        for (seat, end) in seats.iter().zip(threads(2)) {
            seat.take(Arc::new(end));
        }
        thread::scope(|scope| {
            let other = scope.spawn(|| sum(&seats[1]));
            assert_eq!(sum(&seats[0]).unwrap(), [2.0]);
            assert_eq!(other.join().unwrap().unwrap(), [2.0]);
            // rank 1 waits for rank 0, which never comes
            let waiting = scope.spawn(|| sum(&seats[1]));
            thread::sleep(Duration::from_millis(20));
            seats[0].abort();
            assert!(matches!(waiting.join().unwrap(), Err(Error::RankLeft { rank: 0 })));
        });
        assert!(sum(&seats[0]).is_err());
        assert!(sum(&seats[1]).is_err());
    }
}
