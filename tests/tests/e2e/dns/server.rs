//! A `cfgdns` beside a group, its ways there, and what a client hears of it: messages are written
//! and read by hickory's library, which is not ours.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Cluster, Network, binary_path, eventually, eventually_some, http_get};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::beside::{Process, start_command, ways};

/// For a name server to say what it must.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// For a reply over loopback, of a machine that does much else.
const REPLY: Duration = Duration::from_secs(5);
/// The number of the EDNS option of extended errors (RFC 8914 2).
const EXTENDED_ERROR: u16 = 15;

/// A name server, and its ways to the group.
pub(crate) struct NameServer {
    process: Option<Process>,
    pub(crate) network: Network,
    name: String,
    endpoints: String,
    directory: PathBuf,
    more: Vec<String>,
    environment: Vec<(String, PathBuf)>,
    /// Where it answers, and where it tells how it is.
    pub(crate) dns: SocketAddr,
    pub(crate) http: SocketAddr,
    starts: usize,
}

/// What a reply says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) rcode: ResponseCode,
    pub(crate) authoritative: bool,
    /// The extended error.
    pub(crate) error: Option<u16>,
    /// Data of the answer.
    pub(crate) answer: Vec<String>,
}

impl Told {
    /// It says that it cannot know, for this reason.
    pub(crate) fn is_fenced(&self, error: u16) -> bool {
        self.rcode == ResponseCode::ServFail
            && !self.authoritative
            && self.error == Some(error)
            && self.answer.is_empty()
    }
}

impl NameServer {
    /// Starts one that answers at any port.
    pub(crate) fn start(name: &str, cluster: &Cluster, more: &[&str]) -> Result<Self> {
        Self::start_first_at(0, name, cluster, more)
    }

    /// The same, that asks this member before the others.
    pub(crate) fn start_first_at(
        first: usize,
        name: &str,
        cluster: &Cluster,
        more: &[&str],
    ) -> Result<Self> {
        let mut server = Self::prepare(name, cluster, more)?;
        let mut endpoints: Vec<_> = server.endpoints.split(',').collect();
        endpoints.rotate_left(first);
        server.endpoints = endpoints.join(",");
        server.begin()?;
        Ok(server)
    }

    /// The same as the first, with these variables in its environment.
    pub(crate) fn start_with(
        environment: &[(&str, &Path)],
        name: &str,
        cluster: &Cluster,
        more: &[&str],
    ) -> Result<Self> {
        let mut server = Self::prepare(name, cluster, more)?;
        let variables = environment.iter();
        server.environment = variables
            .map(|(name, value)| ((*name).to_owned(), value.to_path_buf()))
            .collect();
        server.begin()?;
        Ok(server)
    }

    fn prepare(name: &str, cluster: &Cluster, more: &[&str]) -> Result<Self> {
        let (network, endpoints) = ways(cluster)?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Ok(Self {
            process: None,
            network,
            name: name.to_owned(),
            endpoints,
            directory: cluster.directory().to_owned(),
            more: more.iter().copied().map(str::to_owned).collect(),
            environment: Vec::new(),
            dns: nowhere,
            http: nowhere,
            starts: 0,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Starts the program, again if it has ended.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.starts += 1;
        let log = format!("{}-{}.log", self.name, self.starts);
        let own = [
            "--endpoints",
            &self.endpoints,
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--nsid",
            &self.name,
        ];
        let more: Vec<&str> = self.more.iter().map(String::as_str).collect();
        let arguments = [&own[..], &more].concat();
        let mut command = Command::new(binary_path("cfgdns")?);
        command.args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(start_command(&mut command, &self.directory, &log)?);
        self.dns = self.logged("answering over UDP and TCP")?;
        self.http = self.logged("HTTP: /fresh")?;
        Ok(())
    }

    /// The address in the line of its log that has these words.
    pub(crate) fn logged(&self, words: &str) -> Result<SocketAddr> {
        eventually_some(PATIENCE, format!("'{words}' in the log"), || {
            let log = self.log().ok()?;
            let line = log.lines().find(|line| line.contains(words))?;
            line.rsplit_once("address=")?.1.parse().ok()
        })
    }

    /// What it has logged since its last start.
    pub(crate) fn log(&self) -> Result<String> {
        let file = format!("{}-{}.log", self.name, self.starts);
        let path = self.directory.join(file);
        let text = fs::read_to_string(&path);
        text.with_context(|| format!("read {}", path.display()))
    }

    /// Waits until it has logged these words: a line may come after what it tells of.
    pub(crate) fn logs(&self, words: &str) -> Result<()> {
        eventually(PATIENCE, format!("'{words}' in the log"), || {
            self.log().is_ok_and(|log| log.contains(words))
        })
        .with_context(|| self.log().unwrap_or_default())
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let mut process = self.process.take().context("it runs")?;
        eventually_some(PATIENCE, "a name server to end", || {
            process.0.try_wait().transpose()
        })?
        .context("wait for it")
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref().context("it runs")?;
        let pid = Pid::from_child(&process.0);
        kill_process(pid, signal).context("send a signal")
    }

    /// Asks over UDP, once.
    pub(crate) fn ask(&self, name: &str, rtype: RecordType) -> Result<Told> {
        ask(self.dns, name, rtype)
    }

    /// Waits until a name has exactly these data, in any order.
    pub(crate) fn answers(&self, name: &str, rtype: RecordType, data: &[&str]) -> Result<()> {
        let mut last = None;
        let waited = eventually(PATIENCE, format!("{name} {rtype} {data:?}"), || {
            last = self.ask(name, rtype).ok();
            last.as_ref().is_some_and(|told| {
                let mut found = told.answer.clone();
                found.sort();
                told.rcode == ResponseCode::NoError && found == data
            })
        });
        waited.with_context(|| format!("{} answers {last:?}", self.name))
    }

    /// How many replies had this rcode.
    pub(crate) fn replies(&self, rcode: &str) -> Result<u64> {
        let (_, metrics) = http_get(self.http, "/metrics", REPLY)?;
        let name = format!("cfgdns_replies_total{{rcode=\"{rcode}\"}} ");
        let mut lines = metrics.lines();
        let number = lines.find_map(|line| line.strip_prefix(&name));
        Ok(number.context("no such counter")?.parse()?)
    }

    /// Status and body of `/fresh`.
    pub(crate) fn fresh(&self) -> Result<(u16, Value)> {
        let (status, body) = http_get(self.http, "/fresh", REPLY)?;
        Ok((status, serde_json::from_str(&body)?))
    }

    /// Waits until it has the group's confirmation.
    pub(crate) fn is_fresh(&self) -> Result<()> {
        eventually(PATIENCE, "a name server to be fresh", || {
            self.fresh().is_ok_and(|(status, _)| status == 200)
        })
        .with_context(|| self.log().unwrap_or_default())
    }
}

/// Asks a server over UDP, once.
pub(crate) fn ask(server: SocketAddr, name: &str, rtype: RecordType) -> Result<Told> {
    ask_from(loopback(server), server, name, rtype)
}

/// The same, from this address of the machine.
pub(crate) fn ask_from(
    own: IpAddr,
    server: SocketAddr,
    name: &str,
    rtype: RecordType,
) -> Result<Told> {
    exchange(own, server, name, rtype, Message::query())
}

fn loopback(server: SocketAddr) -> IpAddr {
    match server {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Asks a resolver over UDP, once.
pub(crate) fn resolve(server: SocketAddr, name: &str, rtype: RecordType) -> Result<Told> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    exchange(loopback(server), server, name, rtype, request)
}

fn exchange(
    own: IpAddr,
    server: SocketAddr,
    name: &str,
    rtype: RecordType,
    mut request: Message,
) -> Result<Told> {
    request.add_query(Query::query(Name::from_ascii(name)?, rtype));
    let mut edns = Edns::new();
    edns.set_max_payload(1_232);
    request.set_edns(edns);
    let socket = UdpSocket::bind((own, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(REPLY))?;
    socket.send(&request.to_vec()?)?;
    let mut octets = [0; 4_096];
    let length = socket.recv(&mut octets).context("no reply")?;
    let reply = Message::from_vec(&octets[..length])?;
    ensure!(reply.metadata.id == request.metadata.id, "another's reply");
    Ok(told(&reply))
}

fn told(reply: &Message) -> Told {
    let option = reply.edns.as_ref();
    let option = option.and_then(|edns| edns.option(EdnsCode::Unknown(EXTENDED_ERROR)));
    let error = match option {
        Some(EdnsOption::Unknown(_, octets)) => octets.first_chunk().copied(),
        _ => None,
    };
    Told {
        rcode: reply.metadata.response_code,
        authoritative: reply.metadata.authoritative,
        error: error.map(u16::from_be_bytes),
        answer: reply
            .answers
            .iter()
            .map(|set| set.data.to_string())
            .collect(),
    }
}
