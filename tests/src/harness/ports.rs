//! Ports on loopback that no other test takes.
//!
//! Why not port 0 alone: a server must know its peers' ports before they listen, and a port of the
//! ephemeral range that is free now may be the source of someone's connection a moment later. So
//! each test process claims a block of ports below that range by locking a file, which the system
//! unlocks when the process ends however it ends, and gives out those that can be bound.

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// First port of the first block; above what systems use for well-known services.
const FIRST: u16 = 12_000;
/// First port after the last block; the ephemeral range of Linux begins at 32768.
const END: u16 = 32_000;
/// Ports in a block.
const BLOCK: u16 = 100;

static CLAIMED: Mutex<Claimed> = Mutex::new(Claimed {
    locks: Vec::new(),
    next: 0,
    end: 0,
});

struct Claimed {
    /// One file for each block, locked while the process lives.
    locks: Vec<File>,
    /// What is left of the newest block.
    next: u16,
    end: u16,
}

/// An address on loopback that nobody listens on, and that no other call gives out, in this
/// process or in another one on this machine.
pub fn unused_address() -> Result<SocketAddr> {
    let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if claimed.next == claimed.end {
            let (lock, first) = claim_block()?;
            claimed.locks.push(lock);
            (claimed.next, claimed.end) = (first, first + BLOCK);
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, claimed.next));
        claimed.next += 1;
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
}

/// Locks a block that nobody has; returns the lock and the first port.
fn claim_block() -> Result<(File, u16)> {
    let directory = std::env::temp_dir().join("cfgsvc-test-ports");
    share(&directory, 0o777, || fs::create_dir_all(&directory))
        .with_context(|| format!("make {}", directory.display()))?;
    for first in (FIRST..END).step_by(BLOCK.into()) {
        let path = directory.join(first.to_string());
        let open = || File::options().create(true).append(true).open(&path);
        let lock = share(&path, 0o666, open).with_context(|| format!("open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => return Ok((lock, first)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
    }
    bail!("all ports from {FIRST} to {END} are claimed by other test processes")
}

/// Makes a file or directory that the tests of other users must find open too: the mode that it is
/// made with is less what the user's mask says.
fn share<T>(path: &Path, mode: u32, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let new = !path.exists();
    let made = make()?;
    if new {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn addresses_are_free_and_given_out_once() {
        let count = usize::from(BLOCK) + 50;
        let given: BTreeSet<_> = (0..count)
            .map(|_| unused_address().expect("an address"))
            .collect();
        assert_eq!(given.len(), count);
        for address in given {
            assert!((FIRST..END).contains(&address.port()));
            TcpListener::bind(address).expect("free");
        }
    }
}
