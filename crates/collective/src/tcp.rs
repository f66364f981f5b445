//! Ranks as processes that meet over TCP: a star around rank 0, which adds up and sends back.
//!
//! Sums are those of [`crate::threads`], bit for bit: rank 0 adds in rank order. Every wait blocks on a socket and never
//! spins. A peer that closes its connection, or says nothing for too long, ends the collective for all:
//! rank 0 closes the other connections, so nobody waits for the dead.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};

use crate::{Collective, Error};

/// What connects the ranks of one group, and keeps out those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The same number on every rank, and on no rank of an earlier group: the epoch.
    pub id: u64,
    /// The number of ranks.
    pub world_size: usize,
    /// How long the ranks have to connect.
    pub forming: Duration,
    /// The longest silence of a peer that others wait for.
    pub silence: Duration,
}

/// One rank's end of a collective over TCP.
pub struct Tcp {
    rank: usize,
    session: Session,
    /// To rank 0, or, on rank 0, to ranks 1, 2 ... in order.
    peers: Mutex<Vec<TcpStream>>,
    /// The same connections, to be closed while `peers` is in use.
    closers: Vec<TcpStream>,
}

/// Every message begins with this, so that a stranger is noticed at once.
const MAGIC: u32 = 0x4153_4159;
/// More dimensions, or more numbers, than any activation has: a header beyond these is not from a peer.
const MOST_DIMENSIONS: u32 = 8;
const MOST_NUMBERS: u64 = 1 << 33;
/// Numbers that are converted at a time.
const CHUNK: usize = 1 << 16;

// === impl Tcp ===

impl Tcp {
    /// Rank 0's end: waits for the other ranks to connect to `listener`. Strangers are turned away.
    ///
    /// # Errors
    /// [`Error::RankLeft`] naming the lowest rank that has not come in time, [`Error::Connection`] if the
    /// listener fails.
    pub fn lead(listener: &TcpListener, session: Session) -> Result<Self, Error> {
        let end = Instant::now() + session.forming;
        let mut peers: Vec<Option<TcpStream>> = (1..session.world_size).map(|_| None).collect();
        listener.set_nonblocking(true).map_err(Error::Connection)?;
        while let Some(missing) = peers.iter().position(Option::is_none) {
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Some((rank, stream)) = welcome(stream, session)
                        && let Some(peer) = peers.get_mut(rank - 1)
                    {
                        *peer = Some(stream);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() > end {
                        return Err(Error::RankLeft { rank: missing + 1 });
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(Error::Connection(error)),
            }
        }
        Self::new(0, session, peers.into_iter().flatten().collect())
    }

    /// The end of rank `rank` > 0: connects to rank 0's listener.
    ///
    /// # Errors
    /// [`Error::Connection`] if rank 0 cannot be reached in time or turns the rank away.
    pub fn follow(leader: SocketAddr, rank: usize, session: Session) -> Result<Self, Error> {
        let end = Instant::now() + session.forming;
        let connect = || -> io::Result<TcpStream> {
            let mut stream = TcpStream::connect_timeout(&leader, session.forming)?;
            prepare(&stream, session)?;
            stream.write_all(&hello(rank, session))?;
            let mut answer = [0; HELLO];
            stream.read_exact(&mut answer)?;
            match answer == hello(0, session) {
                true => Ok(stream),
                false => Err(io::Error::new(io::ErrorKind::InvalidData, "rank 0 is of another group")),
            }
        };
        loop {
            match connect() {
                Ok(stream) => return Self::new(rank, session, vec![stream]),
                Err(error) if Instant::now() > end => return Err(Error::Connection(error)),
                // rank 0 may not be there yet
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn new(rank: usize, session: Session, peers: Vec<TcpStream>) -> Result<Self, Error> {
        let patient = |peer: &TcpStream| peer.set_read_timeout(Some(session.silence));
        peers.iter().try_for_each(patient).map_err(Error::Connection)?;
        let closers = peers.iter().map(TcpStream::try_clone).collect::<io::Result<_>>().map_err(Error::Connection)?;
        Ok(Self { rank, session, peers: Mutex::new(peers), closers })
    }

    fn peers(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the collective for everyone if this rank's part of it failed.
    fn or_abort<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            self.abort();
        }
        result
    }

    fn lead_all_reduce(&self, tensor: Tensor) -> Result<Tensor, Error> {
        let mut peers = self.peers();
        let mut sum = tensor;
        for (peer, stream) in peers.iter_mut().enumerate() {
            let theirs = receive(stream).map_err(|error| error.of_rank(peer + 1))?;
            sum = (sum + theirs)?;
        }
        for (peer, stream) in peers.iter_mut().enumerate() {
            send(stream, &sum).map_err(|error| error.of_rank(peer + 1))?;
        }
        Ok(sum)
    }

    /// Sends to rank 0 and takes its answer.
    fn ask_leader(&self, tensor: &Tensor) -> Result<Tensor, Error> {
        let mut peers = self.peers();
        let leader = peers.first_mut().ok_or(Error::RankLeft { rank: 0 })?;
        send(leader, tensor).and_then(|()| receive(leader)).map_err(|error| error.of_rank(0))
    }
}

impl Collective for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.session.world_size
    }

    fn all_reduce(&self, tensor: Tensor) -> Result<Tensor, Error> {
        self.or_abort(if self.rank == 0 { self.lead_all_reduce(tensor) } else { self.ask_leader(&tensor) })
    }

    /// An all-reduce in which only `root` brings something: broadcasts are rare and small.
    fn broadcast(&self, tensor: Option<Tensor>, root: usize) -> Result<Tensor, Error> {
        let nothing = || Error::NothingToBroadcast { root, world_size: self.session.world_size };
        let own = tensor.filter(|_| root == self.rank);
        if root >= self.session.world_size || (root == self.rank && own.is_none()) {
            return self.or_abort(Err(nothing()));
        }
        let empty = || Ok(Tensor::zeros(0, DType::F32, &Device::Cpu)?);
        self.or_abort(match self.rank {
            0 => self.lead_broadcast(own, root),
            _ => own.map_or_else(empty, Ok).and_then(|own| self.ask_leader(&own)),
        })
    }

    fn abort(&self) {
        for stream in &self.closers {
            // a connection that is closed already is what we want
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    #[cfg(feature = "cuda")]
    fn left(&self) -> Option<usize> {
        // who holds the connections finds out
        let peers = self.peers.try_lock().ok()?;
        let first = usize::from(self.rank == 0);
        peers.iter().position(is_closed).map(|peer| first + peer)
    }
}

impl Tcp {
    fn lead_broadcast(&self, own: Option<Tensor>, root: usize) -> Result<Tensor, Error> {
        let mut peers = self.peers();
        let mut result = own;
        for (peer, stream) in peers.iter_mut().enumerate() {
            let theirs = receive(stream).map_err(|error| error.of_rank(peer + 1))?;
            if peer + 1 == root {
                result = Some(theirs);
            }
        }
        let result = result.ok_or(Error::NothingToBroadcast { root, world_size: self.session.world_size })?;
        for (peer, stream) in peers.iter_mut().enumerate() {
            send(stream, &result).map_err(|error| error.of_rank(peer + 1))?;
        }
        Ok(result)
    }
}

/// Whether the other end is gone. Nobody else may use the connection meanwhile.
#[cfg(feature = "cuda")]
fn is_closed(stream: &TcpStream) -> bool {
    let look = || {
        stream.set_nonblocking(true)?;
        let looked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        looked
    };
    match look() {
        // something has come, which is for later
        Ok(1..) => false,
        Ok(0) => true,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Why a message did not come or go.
enum Failure {
    Io(io::Error),
    Tensor(candle_core::Error),
}

impl Failure {
    fn of_rank(self, rank: usize) -> Error {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::InvalidData => Error::Connection(error),
            // closed, reset or silent: all the same to those who wait
            Self::Io(_) => Error::RankLeft { rank },
            Self::Tensor(error) => Error::Tensor(error),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<candle_core::Error> for Failure {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensor(error)
    }
}

/// Bytes of a hello: magic, rank, world size, session.
const HELLO: usize = 24;

fn hello(rank: usize, session: Session) -> [u8; HELLO] {
    let mut bytes = [0; HELLO];
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..12].copy_from_slice(&(rank as u64).to_le_bytes());
    bytes[12..16].copy_from_slice(&(session.world_size as u32).to_le_bytes());
    bytes[16..].copy_from_slice(&session.id.to_le_bytes());
    bytes
}

fn prepare(stream: &TcpStream, session: Session) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(session.forming))?;
    stream.set_write_timeout(Some(session.silence))
}

/// Reads a hello and answers it; `None` for a stranger.
fn welcome(mut stream: TcpStream, session: Session) -> Option<(usize, TcpStream)> {
    prepare(&stream, session).ok()?;
    // a stranger that connects and says nothing must not hold up the others
    stream.set_read_timeout(Some(session.forming.min(Duration::from_millis(200)))).ok()?;
    let mut bytes = [0; HELLO];
    stream.read_exact(&mut bytes).ok()?;
    let rank = (1..session.world_size).find(|&rank| bytes == hello(rank, session))?;
    stream.write_all(&hello(0, session)).ok()?;
    Some((rank, stream))
}

/// Magic, number of dimensions, dimensions, then the numbers in order, all little-endian.
fn send(stream: &mut TcpStream, tensor: &Tensor) -> Result<(), Failure> {
    let numbers = tensor.flatten_all()?.to_vec1::<f32>()?;
    let mut bytes = Vec::with_capacity(8 + 8 * tensor.rank() + 4 * numbers.len());
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&(tensor.rank() as u32).to_le_bytes());
    bytes.extend(tensor.dims().iter().flat_map(|&dim| (dim as u64).to_le_bytes()));
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    Ok(stream.write_all(&bytes)?)
}

fn receive(stream: &mut TcpStream) -> Result<Tensor, Failure> {
    let malformed =
        |what: &str| Failure::Io(io::Error::new(io::ErrorKind::InvalidData, format!("malformed tensor: {what}")));
    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    if u32::from_le_bytes(word) != MAGIC {
        return Err(malformed("no magic number"));
    }
    stream.read_exact(&mut word)?;
    let rank = u32::from_le_bytes(word);
    if rank > MOST_DIMENSIONS {
        return Err(malformed("too many dimensions"));
    }
    let mut dims = Vec::new();
    for _ in 0..rank {
        let mut dim = [0; 8];
        stream.read_exact(&mut dim)?;
        dims.push(u64::from_le_bytes(dim));
    }
    let count = dims.iter().try_fold(1u64, |count, &dim| count.checked_mul(dim)).filter(|&count| count <= MOST_NUMBERS);
    let mut left = count.ok_or_else(|| malformed("too many numbers"))? as usize;
    // the memory grows with what has really come
    let mut numbers = Vec::new();
    let mut bytes = vec![0; 4 * CHUNK.min(left)];
    while left > 0 {
        let chunk = CHUNK.min(left);
        let bytes = &mut bytes[..4 * chunk];
        stream.read_exact(bytes)?;
        numbers.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        left -= chunk;
    }
    let dims: Vec<usize> = dims.into_iter().map(|dim| dim as usize).collect();
    Ok(Tensor::from_vec(numbers, dims, &Device::Cpu)?)
}

#[cfg(test)]
mod tests;
