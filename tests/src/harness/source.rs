//! Which process a connection comes from, by what Linux tells in `/proc`.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

/// How often the table of connections is read before one counts as closed: the kernel hands it out
/// in pieces, and skips some when connections come and go meanwhile, whoever's they are.
const LOOKS: usize = 300;

/// The position in `processes` of the one that holds the socket with this local address; `None`
/// for someone else's, and for one that is closed meanwhile.
pub(super) fn owner(local: SocketAddr, processes: &[Option<u32>]) -> Option<usize> {
    let SocketAddr::V4(local) = local else {
        return None;
    };
    // Connections to several remote addresses may share a local one.
    let sockets: Vec<PathBuf> = (0..LOOKS).find_map(|_| {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let inodes = table.lines().filter_map(|line| inode_of(line, local));
        let sockets: Vec<_> = inodes
            .map(|inode| format!("socket:[{inode}]").into())
            .collect();
        (!sockets.is_empty()).then_some(sockets)
    })?;
    processes.iter().position(|process| {
        process.is_some_and(|process| sockets.iter().any(|socket| holds(process, socket)))
    })
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
    // A closed connection that had this address, to another remote one, stays for a minute as 0.
    columns.nth(7)?.parse().ok().filter(|inode| *inode != 0)
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
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

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

    #[test]
    fn closed_connection_with_the_same_address_is_passed_over() {
        let local = SocketAddrV4::new([127, 0, 0, 1].into(), 0x1F90);
        let line = |inode: &str| {
            format!(
                "1: 0100007F:1F90 0100007F:0050 06 00000000:00000000 00:00000000 0 0 0 {inode} 2"
            )
        };
        assert_eq!(inode_of(&line("0"), local), None);
        assert_eq!(inode_of(&line("4711"), local), Some(4711));
    }

    #[test]
    fn connection_is_known_while_others_come_and_go() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address");
        let kept: Vec<_> = (0..100)
            .map(|_| {
                let client = TcpStream::connect(address).expect("connect");
                (client, listener.accept().expect("accept"))
            })
            .collect();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // Bounded, since each stays in the table for a minute.
                for _ in 0..3_000 {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let _client = TcpStream::connect(address).expect("connect");
                    let _server = listener.accept().expect("accept");
                }
            });
            let unknown = (0..200).filter(|round| {
                let (_, (_, from)) = &kept[round % kept.len()];
                owner(*from, &[Some(process::id())]) != Some(0)
            });
            let unknown = unknown.count();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(unknown, 0, "lookups that found nobody");
        });
    }
}
