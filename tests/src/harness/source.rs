//! Which process a connection comes from, by what Linux tells in `/proc`.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

/// The position in `processes` of the one that holds the socket with this local address; `None`
/// for someone else's, and for one that is closed meanwhile.
pub(super) fn owner(local: SocketAddr, processes: &[Option<u32>]) -> Option<usize> {
    let SocketAddr::V4(local) = local else {
        return None;
    };
    // Both lists may change while they are read; a line or a file that is gone is just not it.
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().find_map(|line| inode_of(line, local))?;
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    processes
        .iter()
        .position(|process| process.is_some_and(|process| holds(process, &socket)))
}

/// The inode in a line of `/proc/net/tcp`, when it is about a socket with this local address.
fn inode_of(line: &str, local: SocketAddrV4) -> Option<u64> {
    let mut columns = line.split_whitespace().skip(1);
    let (address, port) = columns.next()?.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // The kernel prints the address as a number whose bytes in memory are in network order.
    if address.to_ne_bytes() != local.ip().octets() || port != local.port() {
        return None;
    }
    columns.nth(7)?.parse().ok()
}

fn holds(process: u32, socket: &Path) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return false;
    };
    files
        .filter_map(Result::ok)
        .any(|file| fs::read_link(file.path()).is_ok_and(|target| target == socket))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process;

    use super::*;

    #[test]
    fn connection_is_known_by_the_process_that_holds_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (_server, from) = listener.accept().expect("accept");
        assert_eq!(client.local_addr().expect("address"), from);
        assert_eq!(owner(from, &[None, Some(1), Some(process::id())]), Some(2));
        assert_eq!(owner(from, &[None, Some(1)]), None);
        assert_eq!(
            owner(
                SocketAddr::from(([127, 0, 0, 1], 9)),
                &[Some(process::id())]
            ),
            None
        );
    }
}
