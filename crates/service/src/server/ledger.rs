//! Room for what clients send: so many bytes for all, of which a stream, a connection and a tenant get a part each.
//!
//! A tenant may hold as much as it leaves free: one that floods gets half, two get a third each, and however many they
//! are, the next one finds room. A stream gets an eighth and a connection a quarter, but always one message. Who has to
//! wait is served in order: one that waits for its own stream or connection holds nobody up, one that waits for its
//! tenant's part holds up that tenant, and one whose tenant holds nothing holds up all who come later.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// The room there is. Clones share it.
#[derive(Clone)]
pub(super) struct Ledger {
    most: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    held: usize,
    tenants: HashMap<Arc<str>, usize>,
    waiting: VecDeque<Waiter>,
    pressed: bool,
}

/// Whose bytes they are.
pub(super) struct Owner {
    tenant: Arc<str>,
    connection: Held,
    stream: Held,
}

/// What a connection or a stream holds.
pub(super) type Held = Arc<AtomicUsize>;

struct Waiter {
    owner: Arc<Owner>,
    bytes: usize,
    grant: oneshot::Sender<Permit>,
}

/// Waits for room.
pub(super) struct Turn {
    ledger: Ledger,
    permit: oneshot::Receiver<Permit>,
}

/// Bytes that are held until this is dropped.
pub struct Permit {
    ledger: Ledger,
    owner: Arc<Owner>,
    bytes: usize,
}

/// What is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Short {
    /// The stream's part.
    Stream,
    /// The connection's part.
    Connection,
    /// The tenant's part.
    Tenant,
    /// All that is left for one who holds nothing.
    All,
}

// === impl Owner ===

impl Owner {
    /// A stream of a connection.
    pub(super) fn new(tenant: &str, connection: &Held) -> Arc<Self> {
        Arc::new(Self { tenant: tenant.into(), connection: Arc::clone(connection), stream: Held::default() })
    }

    /// What the stream holds.
    pub(super) fn held(&self) -> usize {
        self.stream.load(Ordering::Relaxed)
    }

    fn change(&self, by: impl Fn(usize) -> usize) {
        for held in [&self.connection, &self.stream] {
            held.store(by(held.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }
}

// === impl Ledger ===

impl Ledger {
    /// So many bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { most, state: Arc::default() }
    }

    /// The most that one message may take: with all the room empty it fits.
    pub(super) fn largest(&self) -> usize {
        self.most / 2
    }

    /// Waits until there is room for so many bytes, or for the largest if that is less.
    pub(super) fn take(&self, owner: &Arc<Owner>, bytes: usize) -> Turn {
        let (grant, permit) = oneshot::channel();
        let waiter = Waiter { owner: Arc::clone(owner), bytes: bytes.min(self.largest()), grant };
        self.lock().waiting.push_back(waiter);
        self.settle();
        Turn { ledger: self.clone(), permit }
    }

    /// Whether somebody waits for room that others than its own stream hold.
    pub(super) fn is_pressed(&self) -> bool {
        self.lock().pressed
    }

    /// Gives room to all who may have it now.
    fn settle(&self) {
        let granted = self.lock().settle(self.most);
        for (grant, owner, bytes) in granted {
            // one that nobody takes any more gives its bytes back
            let _ = grant.send(Permit { ledger: self.clone(), owner, bytes });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Lets in who may come in, in order.
    fn settle(&mut self, most: usize) -> Vec<(oneshot::Sender<Permit>, Arc<Owner>, usize)> {
        let (mut granted, mut blocked, mut full) = (Vec::new(), HashSet::new(), false);
        self.pressed = false;
        for waiter in std::mem::take(&mut self.waiting) {
            if waiter.grant.is_closed() {
                continue;
            }
            let tenant = &waiter.owner.tenant;
            let short = match full || blocked.contains(tenant) {
                true => Some(if full { Short::All } else { Short::Tenant }),
                false => self.short(most, &waiter.owner, waiter.bytes),
            };
            let Some(short) = short else {
                self.hold(&waiter.owner, waiter.bytes);
                granted.push((waiter.grant, waiter.owner, waiter.bytes));
                continue;
            };
            self.pressed |= short != Short::Stream;
            match short {
                Short::Tenant => drop(blocked.insert(Arc::clone(tenant))),
                Short::All => full = true,
                Short::Stream | Short::Connection => {}
            }
            self.waiting.push_back(waiter);
        }
        granted
    }

    /// What there is too little of for so many bytes more.
    fn short(&self, most: usize, owner: &Owner, bytes: usize) -> Option<Short> {
        let is_over = |held: &Held, part: usize| {
            let held = held.load(Ordering::Relaxed);
            held > 0 && held + bytes > part
        };
        let of_tenant = self.tenants.get(&owner.tenant).copied().unwrap_or_default();
        if is_over(&owner.stream, most / 8) {
            Some(Short::Stream)
        } else if is_over(&owner.connection, most / 4) {
            Some(Short::Connection)
        } else if self.held.saturating_add(of_tenant).saturating_add(2 * bytes) <= most {
            None
        } else {
            Some(if of_tenant > 0 { Short::Tenant } else { Short::All })
        }
    }

    fn hold(&mut self, owner: &Owner, bytes: usize) {
        self.held += bytes;
        *self.tenants.entry(Arc::clone(&owner.tenant)).or_default() += bytes;
        owner.change(|held| held + bytes);
    }

    fn release(&mut self, owner: &Owner, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
        if let Some(held) = self.tenants.get_mut(&owner.tenant) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.tenants.remove(&owner.tenant);
            }
        }
        owner.change(|held| held.saturating_sub(bytes));
    }
}

// === impl Turn ===

impl Future for Turn {
    /// None if the room is gone, which it is not while somebody waits for it.
    type Output = Option<Permit>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.permit).poll(context).map(Result::ok)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // whoever gives up holds nobody up any more
        self.permit.close();
        if self.permit.try_recv().is_err() {
            self.ledger.settle();
        }
    }
}

// === impl Permit ===

impl Permit {
    /// Holds so many bytes from now on; says whether there was room for them at once.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            let mut state = self.ledger.lock();
            if more > 0 && state.short(self.ledger.most, &self.owner, more).is_some() {
                return false;
            }
            state.hold(&self.owner, more);
        } else {
            self.ledger.lock().release(&self.owner, self.bytes - bytes);
            self.ledger.settle();
        }
        self.bytes = bytes;
        true
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes so many of its bytes apart.
    pub(super) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { ledger: self.ledger.clone(), owner: Arc::clone(&self.owner), bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.ledger.lock().release(&self.owner, self.bytes);
        self.ledger.settle();
    }
}

#[cfg(test)]
mod tests;
