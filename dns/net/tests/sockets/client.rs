//! A client: questions in wire form, what matters of replies, sockets that do not wait for ever.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use cfgdns_zone::{Name, Rtype};

use crate::PATIENCE;

/// What matters of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) id: u16,
    pub(crate) rcode: u8,
    pub(crate) answers: u16,
    pub(crate) truncated: bool,
    pub(crate) octets: Vec<u8>,
}

impl Reply {
    pub(crate) fn read(octets: &[u8]) -> Self {
        assert!(octets.len() >= 12, "a header");
        assert_eq!(octets[2] & 0x80, 0x80, "a reply");
        Self {
            id: u16::from_be_bytes([octets[0], octets[1]]),
            rcode: octets[3] & 15,
            answers: u16::from_be_bytes([octets[6], octets[7]]),
            truncated: octets[2] & 2 == 2,
            octets: octets.to_vec(),
        }
    }

    /// The last four octets: the only address, where there is no OPT record.
    pub(crate) fn address(&self) -> Ipv4Addr {
        let last = self.octets.last_chunk::<4>().expect("a reply is longer");
        Ipv4Addr::from(*last)
    }
}

/// A question without an OPT record.
pub(crate) fn query(id: u16, name: &str, rtype: Rtype) -> Vec<u8> {
    let name: Name = name.parse().expect("a name");
    let mut octets = id.to_be_bytes().to_vec();
    octets.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    octets.extend(name.as_wire());
    octets.extend(rtype.0.to_be_bytes());
    octets.extend([0, 1]);
    octets
}

/// The same with one.
pub(crate) fn query_edns(id: u16, name: &str, rtype: Rtype) -> Vec<u8> {
    let mut octets = query(id, name, rtype);
    octets[11] = 1;
    octets.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    octets
}

pub(crate) fn www(id: u16) -> Vec<u8> {
    query(id, "www.example.", Rtype::A)
}

/// A UDP socket that belongs to no server: whoever answers is seen.
pub(crate) fn socket(server: SocketAddr) -> UdpSocket {
    let socket = match server {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = socket.expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

pub(crate) fn receive(socket: &UdpSocket) -> (Reply, SocketAddr) {
    let mut octets = [0; 4_096];
    let (count, from) = socket.recv_from(&mut octets).expect("a reply");
    (Reply::read(&octets[..count]), from)
}

/// Asks by UDP, from a new port.
pub(crate) fn ask(server: SocketAddr, request: &[u8]) -> Reply {
    let socket = socket(server);
    socket.send_to(request, server).expect("sent");
    let (reply, from) = receive(&socket);
    assert_eq!(from, server);
    reply
}

/// A connection, of TCP or over it.
pub(crate) struct Connection<S = TcpStream>(pub(crate) S);

impl Connection {
    pub(crate) fn open(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("set");
        Self(stream)
    }
}

impl<S: Read + Write> Connection<S> {
    pub(crate) fn send(&mut self, octets: &[u8]) {
        self.0.write_all(octets).expect("sent");
    }

    pub(crate) fn receive(&mut self) -> Reply {
        let mut length = [0; 2];
        self.0.read_exact(&mut length).expect("a reply");
        let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
        self.0.read_exact(&mut octets).expect("all of it");
        Reply::read(&octets)
    }

    pub(crate) fn ask(&mut self, request: &[u8]) -> Reply {
        self.send(&framed(request));
        self.receive()
    }

    /// Waits for the end, before which nothing comes.
    pub(crate) fn ends(&mut self) {
        match self.0.read(&mut [0; 100]) {
            Ok(count) => assert_eq!(count, 0, "something came"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

/// A message with its length.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short").to_be_bytes();
    [&length[..], message].concat()
}
