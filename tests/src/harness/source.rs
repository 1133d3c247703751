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
    let mut looks = 0;
    let sockets = loop {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let sockets = sockets_of(&table, local);
        if !sockets.is_empty() {
            break sockets;
        }
        looks += 1;
        // Who has given up meanwhile must not cost others their time: they would give up, too.
        if looks == LOOKS || table.lines().any(|line| is_closed_by(line, local)) {
            return None;
        }
    };
    processes.iter().position(|process| {
        process.is_some_and(|process| sockets.iter().any(|socket| holds(process, socket)))
    })
}

/// The sockets with this local address. Connections to several remote ones may share it.
fn sockets_of(table: &str, local: SocketAddrV4) -> Vec<PathBuf> {
    let inodes = table.lines().filter_map(|line| inode_of(line, local));
    inodes
        .map(|inode| format!("socket:[{inode}]").into())
        .collect()
}

/// Whether a column of `/proc/net/tcp` is this address.
fn is_address(column: &str, address: SocketAddrV4) -> bool {
    let Some((ip, port)) = column.split_once(':') else {
        return false;
    };
    // The kernel prints the address as a number whose bytes in memory are in network order.
    u32::from_str_radix(ip, 16).is_ok_and(|ip| ip.to_ne_bytes() == address.ip().octets())
        && u16::from_str_radix(port, 16).is_ok_and(|port| port == address.port())
}

/// Whether a line of `/proc/net/tcp` is about a connection that its other end, at this address, has
/// closed.
fn is_closed_by(line: &str, remote: SocketAddrV4) -> bool {
    const CLOSE_WAIT: &str = "08";
    let mut columns = line.split_whitespace().skip(2);
    columns
        .next()
        .is_some_and(|column| is_address(column, remote))
        && columns.next() == Some(CLOSE_WAIT)
}

/// The inode in a line of `/proc/net/tcp`, when it is about a socket with this local address.
fn inode_of(line: &str, local: SocketAddrV4) -> Option<u64> {
    let mut columns = line.split_whitespace().skip(1);
    if !is_address(columns.next()?, local) {
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

    /// A line of `/proc/net/tcp`.
    fn line(addresses: &str, state: &str, inode: &str) -> String {
        format!("1: {addresses} {state} 00000000:00000000 00:00000000 0 0 0 {inode} 2")
    }

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
        let line = |inode| line("0100007F:1F90 0100007F:0050", "06", inode);
        assert_eq!(inode_of(&line("0"), local), None);
        assert_eq!(inode_of(&line("4711"), local), Some(4711));
    }

    #[test]
    fn connection_that_was_given_up_is_told_by_its_other_end() {
        let remote = SocketAddrV4::new([127, 0, 0, 1].into(), 0x1F90);
        let line = |state| line("0100007F:0050 0100007F:1F90", state, "7");
        assert!(is_closed_by(&line("08"), remote));
        assert!(!is_closed_by(&line("01"), remote));
        let other = SocketAddrV4::new([127, 0, 0, 1].into(), 0x1F91);
        assert!(!is_closed_by(&line("08"), other));
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
