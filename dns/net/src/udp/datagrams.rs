//! Many datagrams in one call of the kernel, in and out, with the address that each came to.
//!
//! Why nix: it has recvmmsg, sendmmsg and packet information behind safe calls. rustix cannot
//! receive in batches, and quinn-udp cannot send different messages to different clients in one.
//! Its headers keep what the kernel last wrote into them, so they serve one socket, whose addresses
//! and control messages have all one length, and one direction.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage,
    recvmmsg, sendmmsg,
};

/// Datagrams in a batch. In one as large as this each costs a 64th of a call; more would only make
/// the first wait for the last.
pub(crate) const BATCH: usize = 64;

/// Octets of a request. We say in each OPT record that we take 1,232 (RFC 6891 6.2.3), and none of
/// them takes more. The stride between buffers is no power of two, so that the beginnings of all of
/// them, which is what is read, have room in the cache at once.
const REQUEST_OCTETS: usize = 1_344;

/// An address of this machine that a datagram came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Local {
    address: IpAddr,
    /// Only for link-local addresses: of others the routes decide where a reply leaves.
    interface: u32,
}

/// A datagram that came.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    octets: usize,
    /// There was more of it than fits.
    cut: bool,
    client: SocketAddr,
    local: Option<Local>,
}

/// A datagram, and where its reply goes.
pub(crate) struct Datagram<'a> {
    /// What it says; of one that is too long only the header.
    pub(crate) octets: &'a [u8],
    /// Who sent it.
    pub(crate) client: SocketAddr,
    /// The address that was asked, where the socket has no address of its own.
    pub(crate) local: Option<Local>,
}

/// Room for a batch of datagrams of one socket.
pub(crate) struct Receiver {
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Box<[[u8; REQUEST_OCTETS]]>,
    arrived: Vec<Arrived>,
}

impl Receiver {
    /// Room for a batch.
    pub(crate) fn new() -> Self {
        Self {
            headers: headers(),
            buffers: vec![[0; REQUEST_OCTETS]; BATCH].into_boxed_slice(),
            arrived: Vec::with_capacity(BATCH),
        }
    }

    /// Takes what has come, and does not wait: how many there are.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> Result<usize, Errno> {
        self.arrived.clear();
        let mut buffers = self.buffers.iter_mut();
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] = std::array::from_fn(|_| {
            let buffer = buffers.next().expect("as many buffers as slices");
            [IoSliceMut::new(buffer)]
        });
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let results = recvmmsg(fd, &mut self.headers, slices.iter_mut(), flags, None)?;
        let mut lost = false;
        self.arrived.extend(results.map(|message| {
            lost |= message.flags.contains(MsgFlags::MSG_CTRUNC);
            arrived(&message)
        }));
        if lost {
            // A message without its address has left no room for the next one's.
            self.headers = headers();
        }
        Ok(self.arrived.len())
    }

    /// What was taken last.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let both = self.arrived.iter().zip(&self.buffers);
        both.map(|(arrived, buffer)| Datagram {
            // Only the header of a message that is cut: a header that announces a question and ends
            // is answered with FORMERR, whatever the rest was.
            octets: if arrived.cut {
                &buffer[..cfgdns_core::HEADER_OCTETS]
            } else {
                &buffer[..arrived.octets]
            },
            client: arrived.client,
            local: arrived.local,
        })
    }
}

/// Room for the address of each, of either family.
fn headers() -> MultiHeaders<SockaddrStorage> {
    MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(in6_pktinfo)))
}

fn arrived(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Arrived {
    let sockaddr = message.address.as_ref();
    let v4 = sockaddr.and_then(SockaddrStorage::as_sockaddr_in);
    let v6 = || sockaddr.and_then(SockaddrStorage::as_sockaddr_in6);
    let client = match v4 {
        Some(v4) => SocketAddr::V4((*v4).into()),
        None => v6().map_or(NOBODY, |v6| SocketAddr::V6((*v6).into())),
    };
    // Control messages that do not fit were not asked for: then there is no address, and the kernel
    // chooses one.
    let mut control = message.cmsgs().into_iter().flatten();
    Arrived {
        octets: message.bytes.min(REQUEST_OCTETS),
        cut: message.flags.contains(MsgFlags::MSG_TRUNC),
        client,
        local: control.find_map(local),
    }
}

/// Nobody is answered at port 0.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// An address that a reply can come from: not that of a group.
fn local(message: ControlMessageOwned) -> Option<Local> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "there are dozens of others")]
    let (address, interface) = match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            let octets = info.ipi_spec_dst.s_addr.to_ne_bytes();
            (IpAddr::V4(Ipv4Addr::from(octets)), 0)
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            let scoped = address.is_unicast_link_local();
            (
                IpAddr::V6(address),
                if scoped { info.ipi6_ifindex } else { 0 },
            )
        }
        _ => return None,
    };
    (!address.is_multicast()).then_some(Local { address, interface })
}

/// Replies that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    octets: Vec<Vec<u8>>,
    to: Vec<Option<SockaddrStorage>>,
    from: Vec<Option<Local>>,
}

impl Outgoing {
    /// Adds the reply to a datagram.
    pub(crate) fn push(&mut self, reply: Vec<u8>, datagram: &Datagram<'_>) {
        self.octets.push(reply);
        self.to.push(Some(datagram.client.into()));
        self.from.push(datagram.local);
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.octets.clear();
        self.to.clear();
        self.from.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.octets.len()
    }
}

/// What is needed to send a batch from one socket.
pub(crate) struct Sender {
    plain: MultiHeaders<SockaddrStorage>,
    v4: MultiHeaders<SockaddrStorage>,
    v6: MultiHeaders<SockaddrStorage>,
}

impl Sender {
    /// What is needed for a batch.
    pub(crate) fn new() -> Self {
        let (v4, v6) = (nix::cmsg_space!(in_pktinfo), nix::cmsg_space!(in6_pktinfo));
        Self {
            plain: MultiHeaders::preallocate(BATCH, None),
            v4: MultiHeaders::preallocate(BATCH, Some(v4)),
            v6: MultiHeaders::preallocate(BATCH, Some(v6)),
        }
    }

    /// Sends replies from `first` on that leave from one address, and does not wait: how many went.
    /// An error is about the first of them.
    pub(crate) fn send(
        &mut self,
        socket: &UdpSocket,
        outgoing: &Outgoing,
        first: usize,
    ) -> Result<usize, Errno> {
        let from = outgoing.from[first];
        let rest = outgoing.from[first..].iter().take(BATCH);
        let last = first + rest.take_while(|other| **other == from).count();
        let octets = &outgoing.octets[first..last];
        let slices: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|place| {
            let reply = octets.get(place).map_or(&[][..], Vec::as_slice);
            [IoSlice::new(reply)]
        });
        let slices = slices[..octets.len()].iter();
        let to = &outgoing.to[first..last];
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let interface = from.map_or(0, |from| from.interface);
        let results = match from.map(|from| from.address) {
            None => sendmmsg(fd, &mut self.plain, slices, to, [], flags)?,
            Some(IpAddr::V4(address)) => {
                let info = in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr {
                        s_addr: u32::from_ne_bytes(address.octets()),
                    },
                    ipi_addr: in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                return sendmmsg(fd, &mut self.v4, slices, to, control, flags).map(Iterator::count);
            }
            Some(IpAddr::V6(address)) => {
                let info = in6_pktinfo {
                    ipi6_addr: in6_addr {
                        s6_addr: address.octets(),
                    },
                    ipi6_ifindex: interface,
                };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                return sendmmsg(fd, &mut self.v6, slices, to, control, flags).map(Iterator::count);
            }
        };
        Ok(results.count())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::listen::Sockets;

    fn pair() -> (UdpSocket, UdpSocket) {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
        client
            .connect(server.local_addr().expect("bound"))
            .expect("connected");
        (server, client)
    }

    /// What is sent over loopback is there when the call returns.
    #[test]
    fn burst_is_taken_in_batches_and_replies_go_out_in_one() {
        let (server, client) = pair();
        let mut receiver = Receiver::new();
        assert_eq!(receiver.receive(&server), Err(Errno::EAGAIN));
        for number in 0..BATCH + 6 {
            client
                .send(&[u8::try_from(number).expect("few"); 30])
                .expect("sent");
        }
        let mut sender = Sender::new();
        let mut numbers = Vec::new();
        for expected in [BATCH, 6] {
            assert_eq!(receiver.receive(&server), Ok(expected));
            let mut outgoing = Outgoing::default();
            for datagram in receiver.datagrams() {
                assert_eq!(datagram.client, client.local_addr().expect("bound"));
                assert_eq!(datagram.local, None, "the socket has an address of its own");
                numbers.push(usize::from(datagram.octets[29]));
                outgoing.push(datagram.octets[..20].to_vec(), &datagram);
            }
            assert_eq!(sender.send(&server, &outgoing, 0), Ok(expected));
        }
        assert_eq!(receiver.receive(&server), Err(Errno::EAGAIN));
        assert!(numbers.iter().copied().eq(0..BATCH + 6));
        for number in 0..BATCH + 6 {
            let mut reply = [0; 100];
            assert_eq!(client.recv(&mut reply).expect("a reply"), 20);
            assert_eq!(usize::from(reply[0]), number);
        }
    }

    /// Loopback has one address of IPv6, so only here is seen that it is the one that was asked.
    #[test]
    fn address_that_was_asked_is_known_on_wildcards() {
        for (wildcard, loopback) in [("0.0.0.0:0", "127.0.0.3"), ("[::]:0", "::1")] {
            let sockets = Sockets::bind(
                wildcard.parse().expect("an address"),
                1,
                Duration::from_secs(1),
            );
            let sockets = sockets.expect("it is free");
            let loopback: IpAddr = loopback.parse().expect("an address");
            let client = UdpSocket::bind((loopback, 0)).expect("a port");
            let server = SocketAddr::new(loopback, sockets.address.port());
            let mut receiver = Receiver::new();
            // The room for addresses is used again and again.
            for _ in 0..3 {
                for _ in 0..BATCH {
                    client.send_to(b"12 octets...", server).expect("sent");
                }
                assert_eq!(receiver.receive(&sockets.udp[0]), Ok(BATCH));
                let expected = Some(Local {
                    address: loopback,
                    interface: 0,
                });
                assert!(receiver.datagrams().all(|one| one.local == expected));
            }
        }
    }

    #[test]
    fn of_a_datagram_that_is_too_long_there_is_the_header() {
        let (server, client) = pair();
        let mut receiver = Receiver::new();
        for octets in [REQUEST_OCTETS, REQUEST_OCTETS + 1, 60_000, 0, 1] {
            client.send(&vec![1; octets]).expect("sent");
        }
        assert_eq!(receiver.receive(&server), Ok(5));
        let octets: Vec<_> = receiver.datagrams().map(|one| one.octets.len()).collect();
        assert_eq!(octets, [REQUEST_OCTETS, 12, 12, 0, 1]);
    }
}
