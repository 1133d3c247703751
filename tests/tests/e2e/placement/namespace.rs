//! A network namespace for a host, where root may make one: its packets are lost for true, so that
//! who connects waits, where a proxy accepts first.
//!
//! One pair of virtual interfaces leads there, with two networks: that of the group and that of the
//! clients, which a cut leaves alone. A cut gives the other end a link address that nobody has:
//! what is sent there is dropped at the end of the cable, in one direction, and nobody is told.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;

use anyhow::Result;

use crate::netns::{claim, ip};

/// Nobody's.
const NO_LINK_ADDRESS: &str = "02:00:00:00:00:01";
/// Networks for tests of network devices (RFC 2544): the second byte of the group's, and of the
/// clients'.
const GROUP: u8 = 18;
const CLIENTS: u8 = 19;
const NUMBERS: u8 = 250;

/// The tests' end of each network, and the host's.
const HERE: u8 = 1;
const THERE: u8 = 2;

pub(super) struct Namespace {
    number: u8,
    /// Held as long as the number is used.
    _lock: File,
}

impl Namespace {
    /// A new one; the error says what is missing.
    pub(super) fn new() -> Result<Self> {
        let (number, lock) = claim("namespace", NUMBERS)?;
        let namespace = Self {
            number,
            _lock: lock,
        };
        // Of a test that was killed.
        namespace.remove();
        let (name, here, there) = (namespace.name(), namespace.here(), namespace.there());
        ip(&["netns", "add", &name])?;
        let pair = ["link", "add", &here, "type", "veth", "peer", "name", &there];
        ip(&[&pair[..], &["netns", &name]].concat())?;
        for network in [GROUP, CLIENTS] {
            let (ours, its) = (
                format!("{}/30", namespace.address(network, HERE)),
                format!("{}/30", namespace.address(network, THERE)),
            );
            ip(&["address", "add", &ours, "dev", &here])?;
            ip(&["-n", &name, "address", "add", &its, "dev", &there])?;
        }
        ip(&["link", "set", &here, "up"])?;
        ip(&["-n", &name, "link", "set", &there, "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    fn name(&self) -> String {
        format!("cfgsvc-test-{}", self.number)
    }

    fn here(&self) -> String {
        format!("cfgt{}a", self.number)
    }

    fn there(&self) -> String {
        format!("cfgt{}b", self.number)
    }

    fn address(&self, network: u8, end: u8) -> IpAddr {
        Ipv4Addr::new(198, network, self.number, end).into()
    }

    /// An address at which its group can be listened for, which nobody uses.
    pub(super) fn group_address(&self) -> Result<SocketAddr> {
        let listener = TcpListener::bind((self.address(GROUP, HERE), 0))?;
        Ok(listener.local_addr()?)
    }

    /// Where its clients and resources are.
    pub(super) fn client_address(&self) -> IpAddr {
        self.address(CLIENTS, HERE)
    }

    /// What runs a program in it, under the process id that is given back.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name()]);
        command
    }

    /// What is sent to the group does not arrive there, and the other way.
    pub(super) fn cut(&self, to_group: bool, from_group: bool) -> Result<()> {
        if to_group {
            let group = self.address(GROUP, HERE).to_string();
            lose(&["-n", &self.name()], &group, &self.there())?;
        }
        if from_group {
            let host = self.address(GROUP, THERE).to_string();
            lose(&[], &host, &self.here())?;
        }
        Ok(())
    }

    /// Ends all cuts.
    pub(super) fn heal(&self) {
        let group = self.address(GROUP, HERE).to_string();
        let host = self.address(GROUP, THERE).to_string();
        let name = self.name();
        // Fails where nothing was cut.
        let _ = ip(&["-n", &name, "neighbor", "del", &group, "dev", &self.there()]);
        let _ = ip(&["neighbor", "del", &host, "dev", &self.here()]);
    }

    fn remove(&self) {
        // Fails where they are gone; what still runs in it keeps it until it ends.
        let _ = ip(&["link", "del", &self.here()]);
        let _ = ip(&["netns", "del", &self.name()]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.remove();
    }
}

fn lose(at: &[&str], address: &str, device: &str) -> Result<()> {
    let entry = ["neighbor", "replace", address, "lladdr", NO_LINK_ADDRESS];
    let how = ["nud", "permanent", "dev", device];
    ip(&[at, &entry, &how].concat())
}
