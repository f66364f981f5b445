//! The star over real sockets on loopback: equal to threads, and ended by whatever goes wrong.

use std::thread;

use super::*;
use crate::threads;

const SESSION: Session =
    Session { id: 7, world_size: 3, forming: Duration::from_secs(5), silence: Duration::from_secs(5) };

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn on_each_rank<T: Send>(session: Session, work: impl Fn(Tcp) -> T + Sync) -> Vec<T> {
    let (listener, address) = listener();
    let join = |rank| match rank {
        0 => Tcp::lead(&listener, session).unwrap(),
        _ => Tcp::follow(address, rank, session).unwrap(),
    };
    let (join, work) = (&join, &work);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..session.world_size).map(|rank| scope.spawn(move || work(join(rank)))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn part(rank: usize, round: usize) -> Tensor {
    let values: Vec<f32> = (0..3000).map(|i| ((i * 31 + rank * 17 + round * 7) as f32).sin() * 1e3).collect();
    Tensor::from_vec(values, (50, 60), &Device::Cpu).unwrap()
}

fn bits(tensor: &Tensor) -> (Vec<usize>, Vec<u32>) {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    (tensor.dims().to_vec(), values.into_iter().map(f32::to_bits).collect())
}

#[test]
fn sums_are_those_of_threads_bit_for_bit() {
    let rounds = 20;
    let all = |collective: &dyn Collective| -> Vec<_> {
        (0..rounds).map(|round| bits(&collective.all_reduce(part(collective.rank(), round)).unwrap())).collect()
    };
    let over_tcp = on_each_rank(SESSION, |rank| all(&rank));
    let over_threads: Vec<_> = thread::scope(|scope| {
        let ranks: Vec<_> = threads(3).into_iter().map(|rank| scope.spawn(move || all(&rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert_eq!(over_tcp, over_threads);
}

#[test]
fn every_rank_gets_the_roots_tensor() {
    for root in 0..3 {
        let got = on_each_rank(SESSION, |rank| bits(&rank.broadcast(Some(part(rank.rank(), 1)), root).unwrap()));
        assert_eq!(got, vec![bits(&part(root, 1)); 3]);
    }
}

#[test]
fn a_broadcast_of_nothing_ends_the_group() {
    let got = on_each_rank(SESSION, |rank| rank.broadcast(None, 1).map(drop).is_err());
    assert_eq!(got, [true; 3]);
}

#[test]
fn a_rank_that_leaves_frees_all_others() {
    for leaver in 0..3 {
        let got = on_each_rank(SESSION, |rank| match rank.rank() == leaver {
            true => None,
            false => Some(rank.all_reduce(part(0, 0)).map(drop).is_err()),
        });
        let expected: Vec<_> = (0..3).map(|rank| (rank != leaver).then_some(true)).collect();
        assert_eq!(got, expected);
    }
}

#[test]
fn a_rank_that_hangs_is_given_up_at_the_deadline() {
    let session =
        Session { world_size: 2, forming: Duration::from_millis(300), silence: Duration::from_millis(300), ..SESSION };
    let waited = on_each_rank(session, |rank| match rank.rank() {
        0 => {
            let start = Instant::now();
            assert!(matches!(rank.all_reduce(part(0, 0)), Err(Error::RankLeft { rank: 1 })));
            start.elapsed()
        }
        _ => {
            thread::sleep(Duration::from_millis(900));
            Duration::ZERO
        }
    });
    assert!(waited[0] >= Duration::from_millis(250) && waited[0] < Duration::from_millis(800), "{waited:?}");
}

#[test]
fn abort_frees_a_rank_that_waits() {
    let session = Session { world_size: 2, ..SESSION };
    let got = on_each_rank(session, |rank| match rank.rank() {
        0 => thread::scope(|scope| {
            let waiting = scope.spawn(|| rank.all_reduce(part(0, 0)).map(drop).is_err());
            thread::sleep(Duration::from_millis(100));
            rank.abort();
            waiting.join().unwrap()
        }),
        _ => {
            thread::sleep(Duration::from_millis(400));
            true
        }
    });
    assert_eq!(got, [true, true]);
}

#[test]
fn strangers_and_ranks_of_another_epoch_are_turned_away() {
    let session =
        Session { world_size: 2, forming: Duration::from_secs(3), silence: Duration::from_secs(3), ..SESSION };
    let (listener, address) = listener();
    thread::scope(|scope| {
        let leader = scope.spawn(|| Tcp::lead(&listener, session).map(|leader| leader.all_reduce(part(0, 0)).is_ok()));
        let mut silent = TcpStream::connect(address).unwrap();
        let mut loud = TcpStream::connect(address).unwrap();
        loud.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let old = Session { id: 6, forming: Duration::from_millis(50), silence: Duration::from_millis(50), ..session };
        assert!(matches!(Tcp::follow(address, 1, old), Err(Error::Connection(_))));
        let follower = Tcp::follow(address, 1, session).unwrap();
        assert!(follower.all_reduce(part(1, 0)).is_ok());
        assert!(leader.join().unwrap().unwrap());
        let _ = silent.write_all(b"x");
    });
}

#[test]
fn a_rank_that_never_comes_is_named() {
    let session = Session { forming: Duration::from_millis(150), silence: Duration::from_millis(150), ..SESSION };
    let (listener, address) = listener();
    thread::scope(|scope| {
        scope.spawn(|| Tcp::follow(address, 2, session).map(drop));
        assert!(matches!(Tcp::lead(&listener, session), Err(Error::RankLeft { rank: 1 })));
    });
}

#[test]
fn malformed_bytes_are_an_error_and_end_the_group() {
    let session =
        Session { world_size: 2, forming: Duration::from_secs(3), silence: Duration::from_secs(3), ..SESSION };
    let mut huge = MAGIC.to_le_bytes().to_vec();
    huge.extend(2u32.to_le_bytes());
    huge.extend(u64::MAX.to_le_bytes());
    huge.extend(u64::MAX.to_le_bytes());
    let mut deep = MAGIC.to_le_bytes().to_vec();
    deep.extend(1_000_000u32.to_le_bytes());
    for bytes in [b"not a tensor at all, really".to_vec(), huge, deep] {
        let (listener, address) = listener();
        thread::scope(|scope| {
            let leader = scope.spawn(|| Tcp::lead(&listener, session).unwrap().all_reduce(part(0, 0)).map(drop));
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&hello(1, session)).unwrap();
            stream.write_all(&bytes).unwrap();
            assert!(matches!(leader.join().unwrap(), Err(Error::Connection(_))));
        });
    }
}
