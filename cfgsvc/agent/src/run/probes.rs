//! Probes others, answers probes, makes checks, and tells the group what came of it: with a renewal
//! where there is one in time, else by itself.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cfgsvc_client::{Probe, Probes, Row};
use cfgsvc_clock::Moment;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::group::Group;
use crate::probe::{self, BYTES_MAX, Datagram, Watched};

/// Time between two probes of one host, and between two checks.
const EVERY: Duration = Duration::from_millis(500);
/// A row is told so often, with a renewal or without.
const TELL: Duration = Duration::from_secs(1);
/// Longest time for a check, and for a name to be looked up.
const CHECK_MAX: Duration = Duration::from_secs(1);
/// Longest time for telling without a renewal.
const TELL_MAX: Duration = Duration::from_secs(1);
/// Most that is read of a check's answer: `HTTP/1.1 200`.
const STATUS_BYTES: usize = 12;
/// Looks at the own lateness that count.
const LATE_LOOKS: usize = 8;

/// Who this host is, in its row.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) host: String,
    pub(crate) colo: String,
    /// Where it answers probes; empty when it does not.
    pub(crate) probe: String,
}

#[derive(Debug)]
struct Kept {
    watched: Watched,
    /// The own lateness at the last looks, ms.
    late: [u64; LATE_LOOKS],
    told: Moment,
    number: u64,
}

/// What this host sees, for whoever renews a lease.
#[derive(Debug)]
pub(crate) struct Rows {
    own: Own,
    kept: Mutex<Kept>,
}

impl Rows {
    pub(crate) fn new(own: Own) -> Self {
        Self {
            own,
            kept: Mutex::new(Kept {
                watched: Watched::default(),
                late: [0; LATE_LOOKS],
                told: Moment::since_boot(Duration::ZERO),
                // Of no earlier process.
                number: Moment::now().nanos(),
            }),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row, if it was not told of late.
    pub(crate) fn due(&self, now: Moment) -> Option<Row> {
        let mut kept = self.kept();
        // Before the moment at which it would be told by itself.
        if now.since(kept.told) < TELL / 2 {
            return None;
        }
        kept.told = now;
        let (probed, missed) = kept.watched.bits();
        Some(Row {
            host: self.own.host.clone(),
            colo: self.own.colo.clone(),
            probe: self.own.probe.clone(),
            late_ms: kept.late.iter().copied().max().unwrap_or(0),
            list: kept.watched.list().0,
            probed: probed.into(),
            missed: missed.into(),
        })
    }

    /// Whom to probe from now on.
    pub(crate) fn given(&self, probes: Option<Probes>) {
        if let Some(probes) = probes {
            self.kept().watched.given(probes);
        }
    }

    /// Those to probe now, with the number of each probe.
    fn next(&self, late: u64) -> Vec<(u64, Probe)> {
        let mut kept = self.kept();
        kept.late.rotate_right(1);
        kept.late[0] = late;
        let mut next = Vec::new();
        for (at, probe) in kept.watched.list().1.to_vec().into_iter().enumerate() {
            kept.number += 1;
            let number = kept.number;
            kept.watched.sent(at, number);
            next.push((number, probe));
        }
        next
    }

    fn answered(&self, number: u64) {
        self.kept().watched.answered(number);
    }
}

/// Where probes are answered, or only sent from.
pub(crate) async fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(at).await
}

/// Probes, answers and tells until it is dropped.
pub(crate) async fn run(rows: Arc<Rows>, socket: UdpSocket, group: Arc<Group>) {
    let socket = Arc::new(socket);
    let hearing = hear(Arc::clone(&rows), Arc::clone(&socket));
    tokio::join!(hearing, ask(&rows, &socket), tell(&rows, &group));
}

async fn tell(rows: &Rows, group: &Group) {
    let mut ticks = tokio::time::interval(TELL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(row) = rows.due(Moment::now()) else {
            continue;
        };
        let told = group.ask(TELL_MAX, async |client| {
            let row = Some(row.clone());
            client.renew_roles_with(Vec::new(), row).await
        });
        match told.await {
            Ok((_, probes)) => rows.given(probes),
            // The renewals show it to people.
            Err(error) => tracing::debug!(%error, "what this host sees is not told"),
        }
    }
}

async fn hear(rows: Arc<Rows>, socket: Arc<UdpSocket>) {
    let mut bytes = [0; BYTES_MAX + 1];
    loop {
        // The network is not there, say; what was sent meanwhile is lost, as anywhere on its way.
        let Ok((length, from)) = socket.recv_from(&mut bytes).await else {
            tokio::time::sleep(EVERY).await;
            continue;
        };
        let bytes = &mut bytes[..length];
        match probe::read(bytes) {
            Some(Datagram::Asks { host }) => {
                let own = &rows.own;
                if host == own.host.as_bytes() && !own.probe.is_empty() {
                    probe::answer(bytes);
                    // Lost, as it may be anywhere on its way.
                    drop(socket.send_to(bytes, from).await);
                }
            }
            Some(Datagram::Answers { number }) => rows.answered(number),
            None => {}
        }
    }
}

async fn ask(rows: &Arc<Rows>, socket: &Arc<UdpSocket>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut expected = Moment::now();
    let mut checks = JoinSet::new();
    loop {
        ticks.tick().await;
        let now = Moment::now();
        let late = u64::try_from(now.since(expected).as_millis()).unwrap_or(u64::MAX);
        expected = now + EVERY;
        while checks.try_join_next().is_some() {}
        for (number, probe) in rows.next(late) {
            let (rows, socket) = (Arc::clone(rows), Arc::clone(socket));
            // Each ends by its own limit, before some more are begun than there are hosts.
            checks.spawn(async move {
                if probe.check.is_empty() {
                    send(&socket, &probe, number).await;
                } else if check(&probe).await.is_ok() {
                    rows.answered(number);
                }
            });
        }
    }
}

async fn send(socket: &UdpSocket, probe: &Probe, number: u64) {
    let bytes = probe::ask(&probe.host, number);
    // A name that is not found, or a network that is not there: no answer.
    let Ok(Ok(mut found)) = tokio::time::timeout(CHECK_MAX, lookup_host(&probe.address)).await
    else {
        return;
    };
    if let Some(to) = found.next() {
        drop(socket.send_to(&bytes, to).await);
    }
}

/// Makes a check of a role's holder.
async fn check(probe: &Probe) -> io::Result<()> {
    let made = async {
        let mut stream = TcpStream::connect(&probe.address).await?;
        let Some(path) = probe.check.strip_prefix("http:") else {
            return Ok(());
        };
        let (address, end) = (&probe.address, "Connection: close\r\n\r\n");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{end}");
        stream.write_all(request.as_bytes()).await?;
        let mut status = [0; STATUS_BYTES];
        stream.read_exact(&mut status).await?;
        let ok = status.starts_with(b"HTTP/1.") && status.ends_with(b" 200");
        ok.then_some(())
            .ok_or_else(|| io::Error::other("its answer is not 200"))
    };
    tokio::time::timeout(CHECK_MAX, made).await?
}
