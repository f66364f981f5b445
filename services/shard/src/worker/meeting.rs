//! How the ranks of a worker meet the other ranks of their replica: as threads, over TCP, or by NCCL.

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::Arc;

use collective::{Collective, OnGpus, Session, Solo, Tcp, Ticket, threads};

use super::Reason;

/// The ends of a collective, one for each rank of this process.
pub(super) type Ends = Vec<Arc<dyn Collective>>;

/// All ranks are threads of this process.
pub(super) fn by_threads(world_size: usize) -> Ends {
    match world_size {
        1 => vec![Arc::new(Solo)],
        _ => threads(world_size).into_iter().map(|end| Arc::new(end) as Arc<dyn Collective>).collect(),
    }
}

/// These ranks are on GPUs, and meet by NCCL alone.
pub(super) fn by_nccl(ranks: Range<usize>, world_size: usize, ticket: &Ticket) -> Ends {
    ranks.map(|rank| Arc::new(OnGpus::new(rank, world_size, ticket.clone())) as Arc<dyn Collective>).collect()
}

/// These ranks meet the others at rank 0's address; rank 0 itself listens there.
pub(super) async fn over_tcp(
    ranks: Range<usize>,
    address: SocketAddr,
    listener: Option<TcpListener>,
    session: Session,
) -> Result<Ends, Reason> {
    let meet = move |rank| match &listener {
        Some(listener) if rank == 0 => Tcp::lead(listener, session),
        _ => Tcp::follow(address, rank, session),
    };
    let meeting = tokio::task::spawn_blocking(move || {
        std::thread::scope(|scope| {
            let meet = &meet;
            let ends: Vec<_> = ranks.map(|rank| scope.spawn(move || meet(rank))).collect();
            ends.into_iter().map(|end| end.join()).collect::<Vec<_>>()
        })
    });
    let ends = meeting.await.map_err(|error| error.to_string())?;
    let end = |end: std::thread::Result<Result<Tcp, collective::Error>>| match end {
        Ok(Ok(tcp)) => Ok(Arc::new(tcp) as Arc<dyn Collective>),
        Ok(Err(error)) => Err(format!("the ranks did not meet: {error}")),
        Err(_) => Err("a rank's thread has stopped".to_owned()),
    };
    ends.into_iter().map(end).collect()
}
