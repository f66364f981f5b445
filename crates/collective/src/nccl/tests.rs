//! Forming, operations and ends of communicators, over an NCCL that needs no GPU.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::thread;

use candle_core::{Device as TensorDevice, Tensor};

use super::fake::{Count, Fake, Fault, World};
use super::transfers::{Copy, Transfer};
use super::*;
use crate::{Seat, Session, Tcp, Threads, threads};

const LONG: Duration = Duration::from_secs(30);
const F32: Dtype = Dtype::F32;

fn form(control: &dyn Collective, world: &Arc<World>, fault: Fault, patience: Duration) -> Result<Nccl, Error> {
    forming::form(control, || Fake::start(world, fault), patience, &AtomicBool::new(false))
}

fn on_each_rank<T: Send>(world_size: usize, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let ranks: Vec<_> = threads(world_size).into_iter().map(|rank| scope.spawn(|| work(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn over_tcp<T: Send>(world_size: usize, work: impl Fn(Tcp) -> T + Sync) -> Vec<T> {
    let session = Session { id: 3, world_size, forming: LONG, silence: LONG };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let join = |rank| match rank {
        0 => Tcp::lead(&listener, session).unwrap(),
        _ => Tcp::follow(address, rank, session).unwrap(),
    };
    let (join, work) = (&join, &work);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world_size).map(|rank| scope.spawn(move || work(join(rank)))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn address(numbers: &mut [f32]) -> u64 {
    numbers.as_mut_ptr().expose_provenance() as u64
}

/// An operation that needs all ranks: a row of one number from each to each.
fn share_rows(nccl: &Nccl) -> Result<(), Error> {
    let (mut sent, mut received) = (vec![1.0; nccl.world_size()], vec![0.0; nccl.world_size()]);
    let (split, row) = (RowSplit::new(nccl.world_size(), nccl.world_size()), Row { width: 1, dtype: F32 });
    // SAFETY: the buffers are as large as promised, and only this thread works on them
    unsafe { nccl.exchange(address(&mut sent), address(&mut received), split, row) }
}

fn aborted(made: usize) -> Count {
    Count { made, aborted: made, destroyed: 0 }
}

// === the library ===

#[test]
fn a_library_that_is_absent_or_another_is_an_error_that_says_so() {
    let problem = Library::load(&["libassay-absent.so.2", "libassay-absent.so"]).err().unwrap();
    assert!(problem.contains("libassay-absent.so.2: cannot open"), "{problem}");
    assert!(problem.contains("; libassay-absent.so: cannot open"), "{problem}");
    let problem = Library::load(&["libc.so.6"]).err().unwrap();
    assert!(problem.contains("undefined symbol: ncclGetVersion"), "{problem}");
}

#[test]
fn without_cuda_there_is_an_error_and_no_panic() {
    // with CUDA, this test only shows that nothing panics
    match Nccl::available() {
        Ok(version) => assert!(version.starts_with("2."), "{version}"),
        Err(error) => assert!(error.to_string().contains(" is not there: lib"), "{error}"),
    }
    match Library::get() {
        Ok(library) => assert!(library.version().unwrap() > 20_000),
        Err(error) => assert!(error.to_string().starts_with("NCCL is not there: libnccl.so.2: "), "{error}"),
    }
}

#[test]
fn the_configuration_is_that_of_nccl_2_28() {
    let config = device::config();
    // size_t, two unsigned, four int, a pointer, two int, a pointer, six int
    assert_eq!((config.size, config.magic, config.version, config.blocking), (80, 0xcafe_beef, 22_800, 0));
    assert_eq!((config.maxCTAs, config.nvlinkCentricSched), (i32::MIN, i32::MIN));
    assert!(config.netName.is_null() && config.commName.is_null());
}

#[test]
fn versions_are_written_with_dots() {
    assert_eq!([forming::dotted(23_203), forming::dotted(21_903)], ["2.32.3", "2.19.3"]);
}

// === forming ===

#[test]
fn an_id_comes_to_all_ranks_as_it_is() {
    for first in [0u8, 128] {
        let id: [u8; 128] = std::array::from_fn(|i| i as u8 + first);
        let share = |control: &dyn Collective| forming::share_id(control, (control.rank() == 0).then_some(id)).unwrap();
        assert_eq!(on_each_rank(3, |control| share(&control)), [id; 3]);
        assert_eq!(over_tcp(3, |control| share(&control)), [id; 3]);
    }
}

#[test]
fn what_is_no_id_is_refused() {
    let bytes = |numbers: &[f32]| forming::bytes_of::<3>(&Tensor::new(numbers, &TensorDevice::Cpu).unwrap());
    assert_eq!(bytes(&[0.0, 1.0, 255.0]).unwrap(), [0, 1, 255]);
    for wrong in [&[1.0, 2.0][..], &[1.0, 2.0, 3.0, 4.0], &[1.0, 2.5, 3.0], &[1.0, 2.0, 256.0], &[-1.0, f32::NAN, 0.0]]
    {
        assert!(matches!(bytes(wrong), Err(Error::Connection(_))), "{wrong:?}");
    }
}

#[test]
fn ranks_form_over_threads_and_over_tcp_and_end_in_peace() {
    let world = Arc::default();
    let formed = |control: &dyn Collective| {
        let nccl = form(control, &world, Fault::Nothing, LONG).unwrap();
        nccl.check().unwrap();
        (nccl.rank(), nccl.world_size())
    };
    let expected = [(0, 3), (1, 3), (2, 3)];
    assert_eq!(on_each_rank(3, |control| formed(&control)), expected);
    assert_eq!(over_tcp(3, |control| formed(&control)), expected);
    assert_eq!(formed(&crate::Solo), (0, 1));
    assert_eq!((world.ids(), world.count()), (3, Count { made: 7, destroyed: 7, aborted: 0 }));
}

#[test]
fn what_goes_wrong_on_one_rank_is_the_end_for_all() {
    for fault in [Fault::Absent, Fault::Version, Fault::Init, Fault::Forming] {
        let world = Arc::default();
        let start = Instant::now();
        let failed = |control: &dyn Collective| {
            // those who form wait for a rank that has come, but will never be done
            let fault = if control.rank() == 1 { fault } else { Fault::Nothing };
            let error = form(control, &world, fault, LONG).err().unwrap();
            assert!(control.broadcast(None, 2).is_err(), "the collective goes on");
            error.to_string()
        };
        let expected = match fault {
            Fault::Absent => "NCCL is not there: not today",
            Fault::Version => "nccl: form a communicator: this rank has NCCL 2.32.3, rank 0 has 2.30.3",
            Fault::Init => "nccl: init: as the test wants it",
            _ => "nccl: form a communicator: as the test wants it",
        };
        let errors = on_each_rank(3, |control| failed(&control));
        assert_eq!(errors, ["rank 1 has left the collective", expected, "rank 1 has left the collective"]);
        let errors = over_tcp(3, |control| failed(&control));
        // over TCP rank 2 hears only of rank 0
        assert_eq!(errors, ["rank 1 has left the collective", expected, "rank 0 has left the collective"]);
        assert!(start.elapsed() < LONG, "{fault:?}");
        let count = world.count();
        assert_eq!((world.alive(), count.aborted + count.destroyed), (0, count.made), "{fault:?}");
        if fault == Fault::Absent {
            assert_eq!(world.ids(), 0, "nobody would wait for the ranks of an id");
        }
    }
}

#[test]
fn who_does_not_come_in_time_is_given_up() {
    let world = Arc::default();
    let patience = Duration::from_millis(150);
    let errors = on_each_rank(2, |control| {
        let start = Instant::now();
        let error = form(&control, &world, Fault::Silence, patience).err().unwrap();
        assert!(start.elapsed() >= patience && start.elapsed() < LONG);
        error.to_string()
    });
    let overdue = "nccl: form a communicator: the other ranks have not come in 150ms";
    assert!(errors.iter().any(|error| error == overdue), "{errors:?}");
    assert!(errors.iter().all(|error| error == overdue || error.ends_with("has left the collective")), "{errors:?}");
    assert_eq!(world.count(), aborted(2));
}

#[test]
fn what_fails_later_says_what_it_was() {
    let world = Arc::default();
    let errors = on_each_rank(2, |control| form(&control, &world, Fault::Forming, LONG).err().unwrap().to_string());
    assert_eq!(errors, ["nccl: form a communicator: as the test wants it"; 2]);
    assert_eq!(world.count(), aborted(2));
}

// === operations ===

#[test]
fn an_exchange_takes_the_slices_apart_and_leaves_out_nothing_to_send() {
    let row = Row { width: 10, dtype: Dtype::Bf16 };
    let split = RowSplit::new(4, 3);
    let (own, peers) = transfers::exchange(1, split, row, 1000, 5000);
    assert_eq!(own, Copy { from: 1040, to: 5020, rows: 1 });
    let send = |peer, address, rows| Transfer::Send { peer, address, rows };
    let receive = |peer, address, rows| Transfer::Receive { peer, address, rows };
    assert_eq!(peers, [send(0, 1000, 2), receive(0, 5000, 1), send(2, 1060, 1), receive(2, 5040, 1)]);
    let (own, peers) = transfers::all_gather(1, split, row, 9000, 5000);
    assert_eq!(own, Copy { from: 9000, to: 5040, rows: 1 });
    assert_eq!(peers, [send(0, 9000, 1), receive(0, 5000, 2), send(2, 9000, 1), receive(2, 5060, 1)]);
    // one row: it is rank 0's
    let split = RowSplit::new(1, 3);
    assert_eq!(transfers::exchange(1, split, row, 1000, 5000).1, [send(0, 1000, 1)]);
    assert_eq!(transfers::exchange(0, split, row, 1000, 5000).1, [receive(1, 5020, 1), receive(2, 5040, 1)]);
    assert_eq!(transfers::all_gather(1, split, row, 9000, 5000).1, [receive(0, 5000, 1)]);
}

/// What a kernel does with what an exchange brings: adds up in rank order.
fn add_up(received: &[f32], world_size: usize) -> Vec<f32> {
    let slices: Vec<_> = received.chunks_exact((received.len() / world_size).max(1)).collect();
    let add = |sum: Vec<f32>, slice: &&[f32]| sum.iter().zip(*slice).map(|(sum, part)| sum + part).collect();
    slices.get(1..).into_iter().flatten().fold(slices.first().map_or(vec![], |first| first.to_vec()), add)
}

#[test]
fn exchange_sum_and_gather_are_an_all_reduce_in_rank_order() {
    const WIDTH: usize = 5;
    let row = Row { width: WIDTH, dtype: F32 };
    for (world_size, rows) in [(1, 3), (2, 1), (2, 4), (2, 7), (3, 2), (3, 3), (3, 8), (4, 9), (5, 0), (5, 12)] {
        let world = Arc::default();
        let results = on_each_rank(world_size, |control| {
            let (rank, split) = (control.rank(), RowSplit::new(rows, world_size));
            // large numbers of either sign: another order of the sum has other bits
            let part: Vec<f32> = (0..rows * WIDTH)
                .map(|i| ((i * 31 + rank * 17) as f32).sin() * 10f32.powi((rank * 3) as i32))
                .collect();
            let tensor = Tensor::from_vec(part.clone(), rows * WIDTH, &TensorDevice::Cpu).unwrap();
            let expected = control.all_reduce(tensor).unwrap().to_vec1::<f32>().unwrap();
            let nccl = form(&control, &world, Fault::Nothing, LONG).unwrap();
            let (mut part, own) = (part, split.range(rank).len());
            let mut received = vec![0.0; world_size * own * WIDTH];
            let mut whole = vec![0.0; rows * WIDTH];
            // SAFETY: the buffers are as large as promised, and only this thread works on them
            unsafe { nccl.exchange(address(&mut part), address(&mut received), split, row) }.unwrap();
            let mut slice = add_up(&received, world_size);
            assert_eq!(slice.len(), own * WIDTH);
            // SAFETY: as above
            unsafe { nccl.all_gather(address(&mut slice), address(&mut whole), split, row) }.unwrap();
            let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
            (bits(&whole), bits(&expected))
        });
        for (whole, expected) in results {
            assert_eq!(whole, expected, "{rows} rows over {world_size} ranks");
        }
    }
}

#[test]
fn rows_for_another_number_of_ranks_are_refused() {
    let nccl = form(&crate::Solo, &Arc::default(), Fault::Nothing, LONG).unwrap();
    let (split, row) = (RowSplit::new(4, 2), Row { width: 1, dtype: F32 });
    // SAFETY: nothing is read or written
    let errors = unsafe { [nccl.exchange(0, 0, split, row), nccl.all_gather(0, 0, split, row)] };
    let expected =
        ["exchange", "all-gather"].map(|it| format!("nccl: {it}: rows are split over 2 ranks, and there are 1"));
    assert_eq!(errors.map(|error| error.unwrap_err().to_string()), expected);
    nccl.check().unwrap();
}

// === ends ===

#[test]
fn an_abort_frees_a_rank_that_waits_for_another() {
    let world = Arc::default();
    on_each_rank(2, |control| {
        let nccl = form(&control, &world, Fault::Nothing, LONG).unwrap();
        if nccl.rank() == 1 {
            return;
        }
        let start = Instant::now();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| share_rows(&nccl));
            thread::sleep(Duration::from_millis(50));
            nccl.abort();
            assert!(matches!(waiting.join().unwrap(), Err(Error::RankLeft { rank: 0 })));
        });
        assert!(start.elapsed() < LONG);
        nccl.abort();
        assert!(matches!(nccl.check(), Err(Error::RankLeft { rank: 0 })));
        assert!(matches!(share_rows(&nccl), Err(Error::RankLeft { rank: 0 })));
    });
    assert_eq!(world.count(), Count { made: 2, destroyed: 1, aborted: 1 });
}

#[test]
fn who_is_late_for_an_operation_is_given_up() {
    let world = Arc::default();
    on_each_rank(2, |control| {
        let nccl = form(&control, &world, Fault::Nothing, Duration::from_millis(100)).unwrap();
        if nccl.rank() == 0 {
            let expected = "nccl: exchange: the other ranks have not come in 100ms";
            assert_eq!(share_rows(&nccl).unwrap_err().to_string(), expected);
            assert!(matches!(nccl.check(), Err(Error::RankLeft { rank: 0 })));
        }
    });
    assert_eq!(world.alive(), 0);
}

#[test]
fn a_communicator_that_does_not_end_in_peace_is_aborted() {
    let world = Arc::default();
    drop(form(&crate::Solo, &world, Fault::Finalize, LONG).unwrap());
    assert_eq!(world.count(), aborted(1));
}

// === seats ===

fn sit(seat: &Seat, world: &Arc<World>, fault: Fault) -> Result<Arc<Nccl>, Error> {
    seat.communicator(|collective, cancelled| forming::form(collective, || Fake::start(world, fault), LONG, cancelled))
}

fn seats() -> [Seat; 2] {
    let seats = [Seat::new(0, 2), Seat::new(1, 2)];
    take(&seats);
    seats
}

fn take(seats: &[Seat]) {
    for (seat, end) in seats.iter().zip(threads(2)) {
        seat.take(Arc::new(end));
    }
}

fn sit_all(seats: &[Seat], world: &Arc<World>) -> Vec<Arc<Nccl>> {
    thread::scope(|scope| {
        let ranks: Vec<_> = seats.iter().map(|seat| scope.spawn(|| sit(seat, world, Fault::Nothing))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap().unwrap()).collect()
    })
}

#[test]
fn a_seat_forms_once_for_each_collective() {
    let (world, seats) = (Arc::default(), seats());
    for epoch in 1..=3 {
        let first = sit_all(&seats, &world);
        let second = sit_all(&seats, &world);
        assert!(first.iter().zip(&second).all(|(first, second)| Arc::ptr_eq(first, second)));
        assert_eq!((world.ids(), world.alive()), (epoch, 2));
        if epoch == 2 {
            seats.iter().for_each(Seat::leave);
            assert!(matches!(sit(&seats[1], &world, Fault::Nothing), Err(Error::RankLeft { rank: 1 })));
        }
        take(&seats);
        // who still has it gets nothing out of it
        assert!(first.iter().all(|nccl| matches!(nccl.check(), Err(Error::RankLeft { .. }))));
        assert_eq!(world.alive(), 0);
    }
    assert_eq!(world.count(), aborted(6));
}

#[test]
fn who_leaves_ends_a_form() {
    for (fault, by_take) in [(Fault::Nothing, false), (Fault::Silence, false), (Fault::Silence, true)] {
        let (world, seats) = (Arc::default(), seats());
        thread::scope(|scope| {
            // without the other rank in the collective, or with it but never done in NCCL
            let mut forming = vec![scope.spawn(|| sit(&seats[0], &world, fault).map(drop))];
            if fault == Fault::Silence {
                forming.push(scope.spawn(|| sit(&seats[1], &world, fault).map(drop)));
            }
            thread::sleep(Duration::from_millis(100));
            let start = Instant::now();
            match by_take {
                true => take(&seats),
                false => seats.iter().for_each(Seat::leave),
            }
            for form in forming {
                assert!(matches!(form.join().unwrap(), Err(Error::RankLeft { .. })));
            }
            assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
        });
        assert_eq!(world.alive(), 0);
        if by_take {
            assert_eq!(sit_all(&seats, &world).len(), 2, "the next collective is not concerned");
        }
    }
}

#[test]
fn who_leaves_does_not_wait_for_a_form() {
    let world = Arc::default();
    let seat = Seat::new(0, 1);
    seat.take(Arc::new(crate::Solo));
    let (begun, begins) = channel();
    let (left, leaves) = channel();
    let (seat, world) = (&seat, &world);
    thread::scope(|scope| {
        let forming = scope.spawn(move || {
            seat.communicator(|control, _| {
                begun.send(()).unwrap();
                // a form that does not look whether it is to give up, and succeeds
                leaves.recv_timeout(LONG).unwrap();
                form(control, world, Fault::Nothing, LONG)
            })
        });
        begins.recv().unwrap();
        seat.leave();
        left.send(()).unwrap();
        assert!(matches!(forming.join().unwrap(), Err(Error::RankLeft { rank: 0 })));
    });
    assert_eq!(world.count(), aborted(1));
}

#[test]
fn a_form_that_fails_ends_the_collective_for_all() {
    let (world, seats) = (Arc::default(), seats());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| sit(&seats[0], &world, Fault::Nothing).map(drop));
        assert!(matches!(sit(&seats[1], &world, Fault::Absent), Err(Error::Library { .. })));
        assert!(matches!(waiting.join().unwrap(), Err(Error::RankLeft { rank: 1 })));
    });
    let one = Tensor::new(&[1.0f32], &TensorDevice::Cpu).unwrap();
    assert!(seats[1].all_reduce(one).is_err());
    take(&seats);
    sit_all(&seats, &world);
}

#[test]
fn seats_that_are_taken_and_left_at_any_time_leak_nothing() {
    let (world, seats) = (Arc::default(), seats());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for seat in &seats {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    if let Ok(nccl) = sit(seat, &world, Fault::Nothing) {
                        let _ = share_rows(&nccl);
                    }
                }
            });
        }
        let start = Instant::now();
        // a busy machine gets less done in a round
        let enough = |round| start.elapsed() > LONG / 2 || (round >= 200 && world.count().made >= 20);
        for round in (0..).take_while(|&round| !enough(round)) {
            thread::sleep(Duration::from_micros(round * 37 % 3000));
            match round % 3 {
                0 => seats.iter().for_each(Seat::leave),
                1 => seats[round as usize % 2].leave(),
                _ => take(&seats),
            }
        }
        over.store(true, Ordering::SeqCst);
        seats.iter().for_each(Seat::leave);
    });
    let count = world.count();
    assert_eq!(world.alive(), 0);
    assert!(count.made > 0 && count.made == count.aborted + count.destroyed, "{count:?}");
}
