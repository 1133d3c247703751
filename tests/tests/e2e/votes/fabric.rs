//! The network between hosts and members: each host in a network namespace of its own, and every
//! packet through a switch in this process, which loses and delays what a test says.
//!
//! ```text
//!  namespace of a1        this machine                                    namespace of b1
//!  agent ── tun ── socat ── datagrams ── switch ── datagrams ── socat ── tun ── agent
//!                                         │
//!                                       socat ── tun with an address for each member
//! ```
//!
//! Why a switch of our own: kernels without packet filters and `netem` run the tests too, and what
//! flows between two, in one direction, by one protocol, is one line here. Packets are real, so
//! that who connects waits, and probes (UDP) are lost as renewals (TCP) are.
//!
//! Invariants
//! - nothing passes between namespaces but through the switch.
//! - the switch and all that it needs end with the [`Fabric`]; what a killed test left is removed
//!   by the next that takes its number.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use cfgsvc_tests::harness::eventually;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::netns::{claim, ip};
use crate::seeds::Numbers;

/// For what must happen soon.
const SOON: Duration = Duration::from_secs(30);
/// Networks of 32 addresses in the third of those for documentation (RFC 5737), one for a fabric.
const NUMBERS: u8 = 8;
const SIZE: u8 = 32;
/// Hosts have numbers from here on, members those below.
pub(super) const FIRST_HOST: u8 = 11;
/// Longest packet that a tunnel passes on.
const PACKET_BYTES: usize = 64 << 10;
/// Longest wait of the switch for a packet, and for one that takes none.
const LOOK: Duration = Duration::from_millis(50);
const TCP: u8 = 6;

/// What is wrong with the links of all hosts, in both directions; a packet from one host to another
/// passes two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) loss_percent: u64,
    /// Each packet is late by less than this, by chance, and may be overtaken.
    pub(super) jitter_ms: u64,
}

#[derive(Debug, Default)]
struct Faults {
    /// From one to another.
    cut: BTreeSet<(u8, u8)>,
    /// The same, of TCP alone.
    cut_tcp: BTreeSet<(u8, u8)>,
    weather: Option<Weather>,
    ends: bool,
    passed: u64,
    lost: u64,
}

/// The network of a test.
pub(super) struct Fabric {
    number: u8,
    hosts: u8,
    faults: Arc<Mutex<Faults>>,
    tunnels: Vec<Child>,
    switch: Option<JoinHandle<()>>,
    dir: TempDir,
    /// Held as long as the number is used.
    _lock: File,
}

fn locked(faults: &Mutex<Faults>) -> MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fabric {
    /// One with so many members and hosts; the chances of its weather are by the seed.
    pub(super) fn new(members: u8, hosts: u8, seed: u64) -> Result<Self> {
        ensure!(
            members < FIRST_HOST && FIRST_HOST + hosts < SIZE,
            "too many"
        );
        let (number, lock) = claim("fabric", NUMBERS)?;
        let dir = tempfile::Builder::new()
            .prefix("cfgsvc-fabric-")
            .tempdir()?;
        let mut fabric = Self {
            number,
            hosts,
            faults: Arc::default(),
            tunnels: Vec::new(),
            switch: None,
            dir,
            _lock: lock,
        };
        let socket = UnixDatagram::bind(fabric.dir.path().join("switch"))?;
        socket.set_read_timeout(Some(LOOK))?;
        socket.set_write_timeout(Some(LOOK))?;
        let switch = Switch {
            socket,
            dir: fabric.dir.path().to_owned(),
            faults: Arc::clone(&fabric.faults),
            numbers: Numbers::new(seed),
            waiting: BinaryHeap::new(),
            count: 0,
        };
        fabric.switch = Some(std::thread::spawn(move || switch.run()));
        fabric.tunnel(1)?;
        for member in 2..=members {
            let address = format!("{}/32", fabric.address(member));
            ip(&["address", "add", &address, "dev", &fabric.device()])?;
        }
        for host in fabric.all_hosts() {
            let name = fabric.namespace(host);
            // Of a test that was killed.
            remove(&name);
            ip(&["netns", "add", &name])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            fabric.tunnel(host)?;
        }
        Ok(fabric)
    }

    fn all_hosts(&self) -> impl Iterator<Item = u8> + use<> {
        FIRST_HOST..FIRST_HOST + self.hosts
    }

    fn namespace(&self, host: u8) -> String {
        format!("cfgsvc-fabric-{}-{host}", self.number)
    }

    fn device(&self) -> String {
        format!("cfgfab{}", self.number)
    }

    /// Where a host or a member is.
    pub(super) fn address(&self, node: u8) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, self.number * SIZE + node)
    }

    /// What runs a program on a host, under the process id that is given back.
    pub(super) fn command(&self, host: u8) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]);
        command
    }

    /// A listener on a host.
    pub(super) fn listener(&self, host: u8, port: u16) -> Result<TcpListener> {
        let path = Path::new("/run/netns").join(self.namespace(host));
        let namespace = File::open(&path).with_context(|| path.display().to_string())?;
        let address = self.address(host);
        // A thread of its own, which never comes back from there.
        let bound = std::thread::spawn(move || -> Result<TcpListener> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(TcpListener::bind((address, port))?)
        });
        bound.join().map_err(|_| anyhow!("a thread panicked"))?
    }

    /// The tunnel of a host, or of the members; its device is there when this returns.
    fn tunnel(&mut self, node: u8) -> Result<()> {
        let address = self.address(node);
        let mut command = if node < FIRST_HOST {
            Command::new("socat")
        } else {
            let mut command = self.command(node);
            command.arg("socat");
            command
        };
        let (switch, own) = (self.path("switch"), self.path(&door(node)));
        let device = self.device();
        let log = File::create(self.path(&format!("socat-{node}.log")))?;
        let tunnel = command
            .args(["-b", "65536"])
            .arg(format!(
                "TUN:{address}/27,tun-name={device},iff-no-pi,iff-up"
            ))
            .arg(format!(
                "UNIX-SENDTO:{},bind={}",
                switch.display(),
                own.display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("socat is in Debian's package socat; ip in iproute2")?;
        self.tunnels.push(tunnel);
        let there = eventually(SOON, "a tunnel", || own.exists());
        there.with_context(|| {
            let log = self.path(&format!("socat-{node}.log"));
            std::fs::read_to_string(log).unwrap_or_default()
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Nothing that `from` sends arrives at `to`.
    pub(super) fn cut_one_way(&self, from: u8, to: u8) {
        locked(&self.faults).cut.insert((from, to));
    }

    /// The same, of TCP alone: probes pass.
    pub(super) fn cut_tcp_one_way(&self, from: u8, to: u8) {
        locked(&self.faults).cut_tcp.insert((from, to));
    }

    /// Of all links of hosts, from now on.
    pub(super) fn set_weather(&self, weather: Option<Weather>) {
        locked(&self.faults).weather = weather;
    }

    /// Ends all cuts.
    pub(super) fn heal(&self) {
        let mut faults = locked(&self.faults);
        faults.cut.clear();
        faults.cut_tcp.clear();
    }

    /// Packets that passed, and that were lost, since the beginning.
    pub(super) fn counts(&self) -> (u64, u64) {
        let faults = locked(&self.faults);
        (faults.passed, faults.lost)
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        locked(&self.faults).ends = true;
        for tunnel in &mut self.tunnels {
            // Fails only for one that has ended.
            let _ = tunnel.kill();
            let _ = tunnel.wait();
        }
        for host in self.all_hosts() {
            remove(&self.namespace(host));
        }
        if let Some(switch) = self.switch.take() {
            // One that panicked has said so.
            drop(switch.join());
        }
    }
}

/// The name of the socket that leads to a host, or to the members.
fn door(node: u8) -> String {
    if node < FIRST_HOST {
        "members".to_owned()
    } else {
        node.to_string()
    }
}

/// A packet under way.
type Waiting = (Instant, u64, u8, Vec<u8>);

struct Switch {
    socket: UnixDatagram,
    dir: PathBuf,
    faults: Arc<Mutex<Faults>>,
    numbers: Numbers,
    /// Until when, in the order in which they came, and where to.
    waiting: BinaryHeap<Reverse<Waiting>>,
    count: u64,
}

impl Switch {
    fn run(mut self) {
        let mut bytes = vec![0; PACKET_BYTES];
        while !locked(&self.faults).ends {
            let next = self.waiting.peek().map(|Reverse(first)| first.0);
            let wait = next.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()));
            let wait = wait.clamp(Duration::from_millis(1), LOOK);
            // Fails only for a time of zero; nothing to read in time is the other failure here.
            let _ = self.socket.set_read_timeout(Some(wait));
            if let Ok(length) = self.socket.recv(&mut bytes) {
                self.take(&bytes[..length]);
            }
            self.pass();
        }
    }

    /// Takes a packet, or loses it.
    fn take(&mut self, packet: &[u8]) {
        let Some((from, to, protocol)) = ends(packet) else {
            return;
        };
        let mut faults = locked(&self.faults);
        let cut = faults.cut.contains(&(from, to));
        let cut = cut || protocol == TCP && faults.cut_tcp.contains(&(from, to));
        let (mut lost, mut late_ms) = (cut, 0);
        if let Some(weather) = faults.weather {
            for _ in [from, to].iter().filter(|end| **end >= FIRST_HOST) {
                lost |= self.numbers.below(100) < weather.loss_percent;
                late_ms += self.numbers.below(weather.jitter_ms.max(1));
            }
        }
        if lost {
            faults.lost += 1;
            return;
        }
        faults.passed += 1;
        drop(faults);
        self.count += 1;
        let due = Instant::now() + Duration::from_millis(late_ms);
        let waiting = (due, self.count, to, packet.to_vec());
        self.waiting.push(Reverse(waiting));
    }

    /// Passes on what is due.
    fn pass(&mut self) {
        let now = Instant::now();
        while let Some(Reverse(first)) = self.waiting.peek()
            && first.0 <= now
            && let Some(Reverse((_, _, to, packet))) = self.waiting.pop()
        {
            // One that is not there, or takes none for so long: it is lost.
            if self
                .socket
                .send_to(&packet, self.dir.join(door(to)))
                .is_err()
            {
                locked(&self.faults).lost += 1;
            }
        }
    }
}

/// Who sends an IPv4 packet, to whom, and by which protocol.
fn ends(packet: &[u8]) -> Option<(u8, u8, u8)> {
    let header = packet.first_chunk::<20>()?;
    let last = |at: usize| header[at] % SIZE;
    (header[0] >> 4 == 4).then(|| (last(15), last(19), header[9]))
}

fn remove(namespace: &str) {
    // Fails where it is gone; what still runs in it keeps it until it ends.
    let _ = ip(&["netns", "del", namespace]);
}
