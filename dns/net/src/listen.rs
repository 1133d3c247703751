//! Where a server listens and what it bears, and the sockets for that.
//!
//! Each address gets one TCP listener, which nobody else can share, and as many UDP sockets as
//! threads, which share the port (`SO_REUSEPORT`). The listener comes first: another server at the
//! address is an error, and not a thief of every other query. An address for TLS has a listener
//! alone, and one for QUIC some UDP sockets, which share the port.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::num::{NonZeroU16, NonZeroUsize};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use cfgdns_core::Limits;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{
    Ipv4PacketInfo, Ipv6RecvPacketInfo, Ipv6V6Only, RcvBuf, ReuseAddr, ReusePort, SndBuf,
    TcpUserTimeout,
};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};

use crate::tls::SharedTls;

/// Octets of the buffers of a UDP socket, as far as `net.core.rmem_max` and `wmem_max` let it: what
/// comes in 10 ms at 100,000 queries a second is in there until its thread has its turn.
const UDP_BUFFER_OCTETS: usize = 1 << 20;

/// Connections that the kernel keeps until they are accepted, as far as `net.core.somaxconn` lets.
const BACKLOG: i32 = 1_024;

/// Sockets for QUIC at an address, among which the kernel spreads clients by address and port.
/// Behind each, one handshake is done after the other (`crate::quic`): who stops in one keeps an
/// eighth of the new clients waiting, and a client that comes again from another port seldom waits.
const QUIC_SOCKETS: usize = 8;

/// Ports that are tried when any will do: each is free for TCP and may be taken for UDP.
const PORTS_TRIED: usize = 64;

/// Where to listen, and what to bear.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Each gets UDP and TCP at one port; port 0 is any. The wildcard of IPv6 is not that of IPv4.
    pub addresses: Vec<SocketAddr>,
    /// UDP threads for each address: one for each core.
    pub udp_threads: NonZeroU16,
    /// Threads for TCP connections: one is enough, unless they are many that ask much.
    pub tcp_threads: NonZeroU16,
    /// The rate limit of UDP for each address; none limits nothing. It is divided by the threads
    /// of the address, rounded up, because the kernel spreads the ports of a client over them: a
    /// network gets that rate in all when it asks from many ports, as resolvers do, and a share of
    /// it when it asks from one. So what is promised to those whose addresses are forged holds
    /// whatever ports are forged (but that each thread sends one reply a second at least), and who
    /// really asks much from one port is told to come over TCP.
    pub rate_limit: Option<Limits>,
    /// What TCP connections may take.
    pub tcp: TcpLimits,
    /// Where to answer over TLS too.
    pub tls: Option<TlsListen>,
    /// Where to answer over QUIC too.
    pub quic: Option<QuicListen>,
    /// Time that connections have for their last replies at the end.
    pub shutdown_timeout: Duration,
}

/// Where to answer over TLS (RFC 7858), and as whom.
#[derive(Debug, Clone)]
pub struct TlsListen {
    /// Each gets a TCP port that speaks TLS only; port 0 is any.
    pub addresses: Vec<SocketAddr>,
    /// The certificate and what goes with it, which can be replaced.
    pub config: Arc<SharedTls>,
}

/// Where to answer over QUIC (RFC 9250), and as whom: for clients that one knows, since connections
/// are not bounded there, and whoever stops in a handshake keeps others waiting. The limits of TCP
/// hold for requests under way, and for the time that a connection may be idle.
#[derive(Debug, Clone)]
pub struct QuicListen {
    /// Each gets a UDP port that speaks QUIC only; port 0 is any.
    pub addresses: Vec<SocketAddr>,
    /// The certificate, which can be replaced, and may be that of TLS.
    pub config: Arc<SharedTls>,
}

/// What TCP connections may take (RFC 7766 6.2, RFC 9210 4), and as much again those of TLS, which
/// take no place of the others. The process needs as many descriptors; where they are short, idle
/// connections make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpLimits {
    /// Connections in all. Where there are so many, the one that is idle for longest makes room; a
    /// new one is refused when none is idle.
    pub connections: NonZeroUsize,
    /// Connections of a client, which is an address of IPv4 or a /64 of IPv6, in the same way.
    pub connections_per_client: NonZeroUsize,
    /// Time for the next whole request to come, from when all before it were answered; also for a
    /// TLS handshake.
    pub idle_timeout: Duration,
    /// Time for the client to take what is being sent: up to 80 KiB.
    pub write_timeout: Duration,
    /// Time for the client's kernel to acknowledge what was sent (`TCP_USER_TIMEOUT`), also after
    /// the connection was closed: a reply must not arrive long after the server was fenced, when a
    /// link that was cut is whole again.
    pub delivery_timeout: Duration,
}

impl TcpLimits {
    /// What suits most servers. A connection takes about 8 KiB, and 150 KiB at worst, so all take
    /// 150 MiB at worst. RFC 7766 6.2.3 asks for a few seconds of patience; knotd has 10.
    pub const USUAL: Self = Self {
        connections: NonZeroUsize::new(1_000).expect("not zero"),
        connections_per_client: NonZeroUsize::new(100).expect("not zero"),
        idle_timeout: Duration::from_secs(10),
        write_timeout: Duration::from_secs(10),
        delivery_timeout: Duration::from_secs(10),
    };
}

/// What carries messages to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
    /// Connections that nobody reads on their way.
    Tls,
    /// The same, in datagrams.
    Quic,
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Quic => "QUIC",
        })
    }
}

/// A server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Nothing to do.
    #[error("there is no address to listen on: give at least one")]
    NoAddress,
    /// An address cannot be had.
    #[error("cannot listen on {carrier} {address}: {}", advice(*.source, *.address))]
    Address {
        /// The address.
        address: SocketAddr,
        /// For what.
        carrier: Carrier,
        /// Why.
        source: Errno,
    },
    /// The machine has no more threads or descriptors.
    #[error("cannot start the threads of the server: raise the limits of processes and open files")]
    Threads(#[source] std::io::Error),
    /// QUIC cannot be spoken with what there is for TLS.
    #[error("cannot answer over QUIC with this certificate")]
    Quic(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What to do about it.
fn advice(errno: Errno, address: SocketAddr) -> String {
    let port = address.port();
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of others the cause says all"
    )]
    match errno {
        Errno::EADDRINUSE => format!(
            "another program has the port: `ss -lnptu 'sport = :{port}'` says which; stop it, or \
             choose another address or port"
        ),
        Errno::EACCES => format!(
            "port {port} needs a privilege: give the service CAP_NET_BIND_SERVICE, or choose a \
             port from 1024 on"
        ),
        Errno::EADDRNOTAVAIL => format!(
            "this machine does not have {}: `ip address` shows what it has",
            address.ip()
        ),
        Errno::EMFILE | Errno::ENFILE => "raise the limit of open files".to_owned(),
        _ => "see the cause".to_owned(),
    }
}

/// The sockets of an address.
pub(crate) struct Sockets {
    /// With the port that it was given.
    pub(crate) address: SocketAddr,
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: TcpListener,
}

impl Sockets {
    /// Takes an address, with UDP and TCP at one port.
    pub(crate) fn bind(
        asked: SocketAddr,
        udp_threads: usize,
        delivery: Duration,
    ) -> Result<Self, BindError> {
        let mut tried = 0;
        loop {
            tried += 1;
            let (tcp, address) = listener(Carrier::Tcp, asked, delivery)?;
            match (0..udp_threads).map(|_| bind_udp(address)).collect() {
                Ok(udp) => return Ok(Self { address, udp, tcp }),
                Err(Errno::EADDRINUSE) if asked.port() == 0 && tried < PORTS_TRIED => {}
                Err(errno) => return Err(refused(Carrier::Udp, address)(errno)),
            }
        }
    }
}

/// A listener, with the address that it was given.
pub(crate) fn listener(
    carrier: Carrier,
    asked: SocketAddr,
    delivery: Duration,
) -> Result<(TcpListener, SocketAddr), BindError> {
    let refused = refused(carrier, asked);
    let listener = bind_tcp(asked, delivery).map_err(&refused)?;
    let address = given(asked, listener.local_addr()).map_err(refused)?;
    Ok((listener, address))
}

/// The sockets for QUIC at an address, with the address that they were given. One that shares the
/// port with nobody is taken first: another server there is an error.
pub(crate) fn quic_sockets(asked: SocketAddr) -> Result<(Vec<UdpSocket>, SocketAddr), BindError> {
    let refused = refused(Carrier::Quic, asked);
    let alone = bind_quic(asked, false).map_err(&refused)?;
    let address = given(asked, alone.local_addr()).map_err(&refused)?;
    drop(alone);
    let sockets = (0..QUIC_SOCKETS).map(|_| bind_quic(address, true));
    let sockets: Result<_, _> = sockets.collect();
    Ok((sockets.map_err(refused)?, address))
}

/// The address that was asked for, with the scope of a link-local one, at the port that it got.
fn given(asked: SocketAddr, local: std::io::Result<SocketAddr>) -> Result<SocketAddr, Errno> {
    let local = local.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    let mut address = asked;
    address.set_port(local.port());
    Ok(address)
}

fn refused(carrier: Carrier, address: SocketAddr) -> impl Fn(Errno) -> BindError {
    move |source| BindError::Address {
        address,
        carrier,
        source,
    }
}

fn open(address: SocketAddr, kind: SockType) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, kind, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&fd, Ipv6V6Only, &true)?;
    }
    Ok(fd)
}

fn bind_tcp(address: SocketAddr, delivery: Duration) -> Result<TcpListener, Errno> {
    let fd = open(address, SockType::Stream)?;
    // Connections of the server before this one may still linger at the port.
    setsockopt(&fd, ReuseAddr, &true)?;
    // Accepted connections have it too. Zero would be the system's own, which is minutes.
    let delivery_ms = u32::try_from(delivery.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&fd, TcpUserTimeout, &delivery_ms.max(1))?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(fd))
}

fn bind_udp(address: SocketAddr) -> Result<UdpSocket, Errno> {
    let fd = open(address, SockType::Datagram)?;
    setsockopt(&fd, ReusePort, &true)?;
    setsockopt(&fd, RcvBuf, &UDP_BUFFER_OCTETS)?;
    setsockopt(&fd, SndBuf, &UDP_BUFFER_OCTETS)?;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => setsockopt(&fd, Ipv4PacketInfo, &true)?,
        IpAddr::V6(ip) if ip.is_unspecified() => setsockopt(&fd, Ipv6RecvPacketInfo, &true)?,
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    ignore_path_mtu(&fd, address).map_err(|error| Errno::from_raw(error.raw_os_error()))?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(fd))
}

/// What else it needs, the library that reads it sets.
fn bind_quic(address: SocketAddr, shared: bool) -> Result<UdpSocket, Errno> {
    let fd = open(address, SockType::Datagram)?;
    setsockopt(&fd, ReusePort, &shared)?;
    setsockopt(&fd, RcvBuf, &UDP_BUFFER_OCTETS)?;
    setsockopt(&fd, SndBuf, &UDP_BUFFER_OCTETS)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(fd))
}

/// What the network says about the size of packets is forged easily, and would have replies sent in
/// fragments, which are forged easily as well (RFC 9715 3.1). Ours fit into packets of any path.
fn ignore_path_mtu(fd: &OwnedFd, address: SocketAddr) -> Result<(), rustix::io::Errno> {
    if address.is_ipv4() {
        set_ip_mtu_discover(fd, Ipv4PathMtuDiscovery::OMIT)
    } else {
        set_ipv6_mtu_discover(fd, Ipv6PathMtuDiscovery::OMIT)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::getsockopt;
    use rustix::net::sockopt::{ip_mtu_discover, ipv6_mtu_discover, ipv6_v6only};

    use super::*;

    const DELIVERY: Duration = Duration::from_millis(1_500);

    #[test]
    fn accepted_connections_give_up_what_is_not_acknowledged_in_time() {
        let sockets = Sockets::bind("127.0.0.1:0".parse().expect("an address"), 1, DELIVERY);
        let sockets = sockets.expect("loopback is there");
        let _client = std::net::TcpStream::connect(sockets.address).expect("it listens");
        let mut there = [PollFd::new(sockets.tcp.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut there, PollTimeout::NONE), Ok(1));
        let (accepted, _) = sockets.tcp.accept().expect("a connection");
        let timeout = getsockopt(&accepted, TcpUserTimeout);
        assert_eq!(timeout, Ok(1_500));
    }

    #[test]
    fn udp_sockets_ignore_the_path_and_share_a_port_among_themselves() {
        let sockets = Sockets::bind("127.0.0.1:0".parse().expect("an address"), 3, DELIVERY);
        let v4 = sockets.expect("loopback is there");
        let address = |socket: &UdpSocket| socket.local_addr().expect("bound");
        assert!(v4.udp.iter().all(|socket| address(socket) == v4.address));
        assert_eq!(
            (v4.udp.len(), v4.tcp.local_addr().ok()),
            (3, Some(v4.address))
        );
        let path = ip_mtu_discover(&v4.udp[0]).expect("it has the option");
        assert_eq!(path, Ipv4PathMtuDiscovery::OMIT);
        let sockets = Sockets::bind("[::]:0".parse().expect("an address"), 1, DELIVERY);
        let v6 = sockets.expect("IPv6 is there");
        let path = ipv6_mtu_discover(&v6.udp[0]).expect("it has the option");
        assert_eq!(path, Ipv6PathMtuDiscovery::OMIT);
        assert!(ipv6_v6only(&v6.udp[0]).expect("it has the option"));
        assert!(ipv6_v6only(&v6.tcp).expect("it has the option"));
    }
}
