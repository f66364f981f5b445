//! Memory of a device: an address that kernels read, and its owner.

use std::ops::Add;

/// A place in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Address(pub(crate) u64);

/// A stretch of a device's memory, given back when dropped.
pub(crate) struct Memory {
    address: Address,
    bytes: usize,
    /// What gives it back.
    _owner: Box<dyn Send + Sync>,
}

impl Address {
    /// What kernels take for "not given".
    pub(crate) const NONE: Self = Self(0);
}

impl Add<usize> for Address {
    type Output = Self;

    /// So many bytes further.
    fn add(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

impl Memory {
    pub(crate) fn new(address: Address, bytes: usize, owner: Box<dyn Send + Sync>) -> Self {
        Self { address, bytes, _owner: owner }
    }

    pub(crate) fn address(&self) -> Address {
        self.address
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
