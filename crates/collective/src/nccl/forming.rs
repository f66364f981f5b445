//! How ranks that already form a collective come to form an NCCL communicator: rank 0's version and id go to all of
//! them, and then each asks its NCCL until the others have come, one has left, or too much time has passed.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use candle_core::{Device as TensorDevice, Tensor};

use super::Nccl;
use super::backend::{Backend, ID, Id};
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
    // A thread of rank 0's NCCL waits for the ranks of every id that was made, for ever if they do not come. So there is
    // an id only when all ranks are here with a library.
    agree_on_version(control, backend.version()?)?;
    let id = match rank {
        0 => Some(backend.unique_id()?),
        _ => None,
    };
    let id = share_id(control, id)?;
    let comm = Mutex::new(Some(backend.init(&id, rank, world_size)?));
    let nccl = Nccl { rank, world_size, patience, backend, comm };
    let left = || cancelled.load(Ordering::SeqCst).then_some(rank).or_else(|| control.left());
    nccl.settle("form a communicator", patience, &left)?;
    // who is done must not go before all are: the others would take it for a rank that has failed
    share(control, (rank == 0).then_some(&[0]))?;
    Ok(nccl)
}

/// Ranks of different versions may not understand each other, and would say so less clearly.
fn agree_on_version<C: Collective + ?Sized>(control: &C, own: u32) -> Result<(), Error> {
    let bytes = own.to_le_bytes();
    let leaders = share(control, (control.rank() == 0).then_some(&bytes))?;
    if leaders == bytes {
        return Ok(());
    }
    let problem = format!("this rank has NCCL {}, rank 0 has {}", dotted(own), dotted(u32::from_le_bytes(leaders)));
    Err(Error::Nccl { operation: "form a communicator", problem })
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
