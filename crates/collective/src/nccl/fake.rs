//! NCCL without GPUs, for tests: addresses are those of the process, the stream is the thread that asks for progress,
//! and every communicator that is made is counted until it is freed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZero;
use std::ptr::{NonNull, with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::{Arc, Mutex, MutexGuard};

use super::backend::{Backend, Comm, ID, Id, Status};
use super::transfers::{Copy, Transfer};
use super::{Dtype, Row};
use crate::Error;

/// Where fakes meet.
#[derive(Default)]
pub(super) struct World(Mutex<State>);

#[derive(Default)]
struct State {
    ids: u8,
    /// The ranks that have come with an id.
    joined: BTreeMap<Id, BTreeSet<usize>>,
    mail: BTreeMap<(Id, usize, usize), VecDeque<Vec<u8>>>,
    count: Count,
    alive: BTreeSet<usize>,
}

/// What happened to communicators.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) made: usize,
    pub(super) destroyed: usize,
    pub(super) aborted: usize,
}

/// What goes wrong.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    Nothing,
    /// There is no library.
    Absent,
    /// It is another version than that of others.
    Version,
    /// A communicator cannot even begin to form.
    Init,
    /// It fails while it forms.
    Forming,
    /// It never forms.
    Silence,
    /// It does not end in peace.
    Finalize,
}

pub(super) struct Fake {
    world: Arc<World>,
    fault: Fault,
    own: Mutex<Own>,
}

/// What a rank knows of its communicator.
#[derive(Default)]
struct Own {
    id: Option<Id>,
    rank: usize,
    world_size: usize,
    pending: VecDeque<Pending>,
}

/// Bytes that have not come yet.
struct Pending {
    peer: usize,
    address: u64,
    bytes: usize,
}

impl World {
    pub(super) fn count(&self) -> Count {
        self.state().count
    }

    /// The number of ids that were made up.
    pub(super) fn ids(&self) -> usize {
        self.state().ids.into()
    }

    /// The number of communicators that have not been freed.
    pub(super) fn alive(&self) -> usize {
        self.state().alive.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Fake {
    pub(super) fn start(world: &Arc<World>, fault: Fault) -> Result<Box<dyn Backend>, Error> {
        match fault {
            Fault::Absent => Err(Error::Library { library: "NCCL", problem: "not today".to_owned() }),
            _ => Ok(Box::new(Self { world: Arc::clone(world), fault, own: Mutex::default() })),
        }
    }

    fn free(&self, comm: Comm, counted: impl FnOnce(&mut Count)) {
        let mut state = self.world.state();
        assert!(state.alive.remove(&number(&comm)), "freed twice");
        counted(&mut state.count);
    }

    fn send(&self, own: &Own, peer: usize, address: u64, bytes: usize) {
        // SAFETY: tests give addresses of buffers that are large enough
        let sent = unsafe { std::slice::from_raw_parts(with_exposed_provenance(address as usize), bytes) };
        self.world.state().mail.entry((own.id.unwrap(), own.rank, peer)).or_default().push_back(sent.to_vec());
    }
}

fn number(comm: &Comm) -> usize {
    comm.0.addr().get()
}

fn failed(operation: &'static str) -> Error {
    Error::Nccl { operation, problem: "as the test wants it".to_owned() }
}

/// Writes what came.
fn put(address: u64, came: &[u8]) {
    // SAFETY: tests give addresses of buffers that are large enough
    let place =
        unsafe { std::slice::from_raw_parts_mut(with_exposed_provenance_mut::<u8>(address as usize), came.len()) };
    place.copy_from_slice(came);
}

impl Backend for Fake {
    fn version(&self) -> Result<u32, Error> {
        Ok(if self.fault == Fault::Version { 23_203 } else { 23_003 })
    }

    fn unique_id(&self) -> Result<Id, Error> {
        let mut state = self.world.state();
        state.ids += 1;
        // all bytes there are, half of them at a time
        let first = state.ids;
        Ok(std::array::from_fn::<u8, ID, _>(|i| (i as u8).wrapping_mul(2).wrapping_add(first)))
    }

    fn init(&self, id: &Id, rank: usize, world_size: usize) -> Result<Comm, Error> {
        if self.fault == Fault::Init {
            return Err(failed("init"));
        }
        let mut state = self.world.state();
        state.count.made += 1;
        let number = state.count.made;
        state.alive.insert(number);
        assert!(state.joined.entry(*id).or_default().insert(rank), "rank {rank} came twice");
        *self.own.lock().unwrap() = Own { id: Some(*id), rank, world_size, pending: VecDeque::new() };
        Ok(Comm(NonNull::without_provenance(NonZero::new(number).unwrap())))
    }

    fn state(&self, comm: &Comm) -> Result<Status, Error> {
        let mut own = self.own.lock().unwrap();
        let mut state = self.world.state();
        assert!(state.alive.contains(&number(comm)), "used after it was freed");
        let id = own.id.unwrap();
        match self.fault {
            Fault::Forming => return Err(failed("forming")),
            Fault::Silence => return Ok(Status::InProgress),
            _ if state.joined[&id].len() < own.world_size => return Ok(Status::InProgress),
            _ => {}
        }
        while let Some(Pending { peer, address, bytes }) = own.pending.front() {
            let letter = state.mail.get_mut(&(id, *peer, own.rank)).and_then(VecDeque::pop_front);
            let Some(letter) = letter else { return Ok(Status::InProgress) };
            assert_eq!(letter.len(), *bytes, "ranks do not agree on a size");
            put(*address, &letter);
            own.pending.pop_front();
        }
        Ok(Status::Done)
    }

    fn finalize(&self, comm: &Comm) -> Result<Status, Error> {
        assert!(self.world.state().alive.contains(&number(comm)), "used after it was freed");
        if self.fault == Fault::Finalize { Err(failed("finalize")) } else { Ok(Status::InProgress) }
    }

    fn destroy(&self, comm: Comm) {
        self.free(comm, |count| count.destroyed += 1);
    }

    fn abort(&self, comm: Comm) {
        self.free(comm, |count| count.aborted += 1);
    }

    unsafe fn all_gather(
        &self,
        comm: &Comm,
        (slice, whole): (u64, u64),
        count: usize,
        dtype: Dtype,
    ) -> Result<Status, Error> {
        let (rank, world_size) = {
            let own = self.own.lock().unwrap();
            (own.rank, own.world_size)
        };
        let row = Row { width: count, dtype };
        let place = |rank: usize| whole + row.bytes(rank);
        let peers = (0..world_size).filter(|&peer| peer != rank).flat_map(|peer| {
            [
                Transfer::Send { peer, address: slice, rows: 1 },
                Transfer::Receive { peer, address: place(peer), rows: 1 },
            ]
        });
        let own = Copy { from: slice, to: place(rank), rows: 1 };
        // SAFETY: the caller's promise
        unsafe { self.transfer(comm, own, &peers.collect::<Vec<_>>(), row) }
    }

    unsafe fn transfer(&self, _: &Comm, copy: Copy, peers: &[Transfer], row: Row) -> Result<Status, Error> {
        if copy.from != copy.to {
            let bytes = row.bytes(copy.rows) as usize;
            // SAFETY: tests give addresses of buffers that are large enough
            let from = unsafe { std::slice::from_raw_parts(with_exposed_provenance(copy.from as usize), bytes) };
            put(copy.to, from);
        }
        let mut own = self.own.lock().unwrap();
        for transfer in peers {
            match *transfer {
                Transfer::Send { peer, address, rows } => self.send(&own, peer, address, row.bytes(rows) as usize),
                Transfer::Receive { peer, address, rows } => {
                    own.pending.push_back(Pending { peer, address, bytes: row.bytes(rows) as usize });
                }
            }
        }
        Ok(if peers.is_empty() { Status::Done } else { Status::InProgress })
    }
}
