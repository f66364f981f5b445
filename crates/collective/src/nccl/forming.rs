//! How ranks that already form a collective come to form an NCCL communicator: rank 0's version and id go to all of
//! them, and then each asks its NCCL until the others have come, one has left, or too much time has passed.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use candle_core::{Device as TensorDevice, Tensor};

use super::Nccl;
use super::backend::{Backend, ID, Id};
use crate::Ticket;
use crate::{Collective, Error};

/// Forms this rank's end. If that fails, `control` is aborted, for the other ranks would wait in vain.
pub(super) fn form<C, B>(control: &C, backend: B, patience: Duration, cancelled: &AtomicBool) -> Result<Nccl, Error>
where
    C: Collective + ?Sized,
    B: FnOnce() -> Result<Box<dyn Backend>, Error>,
{
    let formed = try_to_form(control, backend, patience, cancelled);
    if formed.is_err() {
        control.abort();
    }
    formed
}

fn try_to_form<C, B>(control: &C, backend: B, patience: Duration, cancelled: &AtomicBool) -> Result<Nccl, Error>
where
    C: Collective + ?Sized,
    B: FnOnce() -> Result<Box<dyn Backend>, Error>,
{
    let (rank, world_size) = (control.rank(), control.world_size());
    let backend = backend()?;
    let id = match control.ticket() {
        Some(ticket) => id_of(ticket, backend.version()?)?,
        None => agree(control, &*backend)?,
    };
    let comm = Mutex::new(Some(backend.init(&id, rank, world_size)?));
    let nccl = Nccl { rank, world_size, patience, backend, comm };
    let left = || cancelled.load(Ordering::SeqCst).then_some(rank).or_else(|| control.left());
    nccl.settle("form a communicator", patience, &left)?;
    if control.ticket().is_none() {
        // who is done must not go before all are: the others would take it for a rank that has failed
        share(control, (rank == 0).then_some(&[0]))?;
    }
    Ok(nccl)
}

/// The id that a ticket names, for a rank with this version of NCCL.
fn id_of(ticket: &Ticket, own: u32) -> Result<Id, Error> {
    check_version(own, ticket.version)?;
    let problem = || format!("rank 0's id has {} bytes, {ID} are expected", ticket.id.len());
    let id = ticket.id.as_slice().try_into();
    id.map_err(|_| Error::Nccl { operation: "form a communicator", problem: problem() })
}

/// Has all ranks of a collective agree on rank 0's id: how ranks of one process meet, and workers of protocol 1.
///
/// A thread of rank 0's NCCL waits for the ranks of every id that was made, for ever if they do not come. So there is an id
/// only when all ranks are here with a library.
fn agree<C: Collective + ?Sized>(control: &C, backend: &dyn Backend) -> Result<Id, Error> {
    let (own, leads) = (backend.version()?, control.rank() == 0);
    let leaders = share(control, leads.then_some(&own.to_le_bytes()))?;
    check_version(own, u32::from_le_bytes(leaders))?;
    let id = leads.then(|| backend.unique_id()).transpose()?;
    share_id(control, id)
}

/// Ranks of different versions may not understand each other, and would say so less clearly.
fn check_version(own: u32, leaders: u32) -> Result<(), Error> {
    let problem = || format!("this rank has NCCL {}, rank 0 has {}", dotted(own), dotted(leaders));
    match own == leaders {
        true => Ok(()),
        false => Err(Error::Nccl { operation: "form a communicator", problem: problem() }),
    }
}

/// Brings rank 0's id to all ranks.
pub(super) fn share_id<C: Collective + ?Sized>(control: &C, id: Option<Id>) -> Result<Id, Error> {
    share::<C, ID>(control, id.as_ref())
}

/// Brings rank 0's bytes to all ranks. Collectives carry f32, which holds each byte exactly.
fn share<C: Collective + ?Sized, const N: usize>(control: &C, bytes: Option<&[u8; N]>) -> Result<[u8; N], Error> {
    let numbers = bytes.map(|bytes| bytes.map(f32::from));
    let tensor = numbers.map(|numbers| Tensor::new(&numbers, &TensorDevice::Cpu)).transpose()?;
    bytes_of(&control.broadcast(tensor, 0)?)
}

/// The bytes that these numbers are.
pub(super) fn bytes_of<const N: usize>(tensor: &Tensor) -> Result<[u8; N], Error> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("rank 0 sent no {N} bytes"));
    let numbers: [f32; N] =
        tensor.to_vec1::<f32>()?.try_into().map_err(|_: Vec<f32>| Error::Connection(malformed()))?;
    let bytes = numbers.map(|number| number as u8);
    match numbers.iter().zip(bytes).all(|(&number, byte)| number == f32::from(byte)) {
        true => Ok(bytes),
        false => Err(Error::Connection(malformed())),
    }
}

/// 23203 as 2.32.3.
pub(super) fn dotted(version: u32) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}
