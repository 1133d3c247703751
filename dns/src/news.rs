//! Tells secondaries that a zone has changed (RFC 1996): the socket and the clock around
//! [`cfgdns_core::Notifier`], which decides.
//!
//! All zones are told of when the server becomes fresh, at its start and whenever it comes back: a
//! secondary that got SERVFAIL meanwhile waits for its retry, which may be long.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfgdns_core::{Freshness, Moment, Notifier, NotifyReply, NotifyTarget};
use cfgdns_net::now;
use cfgdns_zone::Name;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use crate::publish::Publisher;

/// Messages in a second, to all targets: ten thousand zones take less than two minutes for one.
const PER_SECOND: u32 = 100;
/// Octets of a reply that are read: more is none of ours.
const REPLY_OCTETS_MAX: usize = 1_232;
/// Longest wait without a look at the clock, which goes on while the machine sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Zones that have changed, each once, until they are taken; none where nobody takes them.
#[derive(Debug)]
pub struct News {
    zones: Mutex<BTreeSet<Name>>,
    there: Notify,
    wanted: bool,
}

impl News {
    /// No news; whether there is somebody to tell.
    pub fn new(wanted: bool) -> Self {
        Self {
            zones: Mutex::default(),
            there: Notify::new(),
            wanted,
        }
    }

    /// These have changed.
    pub fn add(&self, zones: impl IntoIterator<Item = Name>) {
        if !self.wanted {
            return;
        }
        let mut all = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(zones);
        let some = !all.is_empty();
        drop(all);
        if some {
            self.there.notify_one();
        }
    }

    /// What has changed since the last call.
    pub(crate) fn take(&self) -> BTreeSet<Name> {
        let mut all = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *all)
    }
}

/// The socket that messages of one family are sent from. Each is bound by itself, for the first
/// message that needs it: on a machine without IPv6 the targets of IPv4 are told all the same.
#[derive(Debug)]
struct Sender {
    from: IpAddr,
    socket: Option<UdpSocket>,
    /// That it cannot be bound was said, and it was not bound since.
    said: bool,
}

impl Sender {
    fn new(from: IpAddr) -> Self {
        Self {
            from,
            socket: None,
            said: false,
        }
    }

    /// Where there is no socket it is tried again to bind one: addresses may come later.
    async fn send(&mut self, to: SocketAddr, octets: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.bind().await?,
        };
        let sent = socket.send_to(octets, to).await.map(drop);
        self.socket = Some(socket);
        sent
    }

    async fn bind(&mut self) -> io::Result<UdpSocket> {
        let bound = UdpSocket::bind((self.from, 0)).await;
        match &bound {
            Ok(_) => self.said = false,
            Err(error) if !self.said => {
                self.said = true;
                tracing::error!(
                    from = %self.from,
                    %error,
                    "cannot bind a socket: secondaries of its family are not told of changes; \
                     tries again for each message"
                );
            }
            Err(_) => {}
        }
        bound
    }
}

/// A datagram at a socket; never where there is none.
async fn receive(socket: Option<&UdpSocket>, octets: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(octets).await,
        None => std::future::pending().await,
    }
}

/// Tells the targets of all news, until the task is dropped.
pub async fn tell(publisher: Arc<Publisher>, targets: Vec<NotifyTarget>) {
    let mut v4 = Sender::new(Ipv4Addr::UNSPECIFIED.into());
    let mut v6 = Sender::new(Ipv6Addr::UNSPECIFIED.into());
    let mut notifier = Notifier::new(targets, PER_SECOND, rand::random());
    let (mut from_v4, mut from_v6) = ([0; REPLY_OCTETS_MAX], [0; REPLY_OCTETS_MAX]);
    let mut given_up = 0;
    loop {
        tokio::select! {
            () = publisher.news().there.notified() => {
                take_news(&publisher, &mut notifier);
            }
            got = receive(v4.socket.as_ref(), &mut from_v4) => {
                heard(&mut notifier, got, &from_v4).await;
            }
            got = receive(v6.socket.as_ref(), &mut from_v6) => {
                heard(&mut notifier, got, &from_v6).await;
            }
            () = tokio::time::sleep(wait(freshness(&publisher), &notifier, now())) => {}
        }
        for (to, octets) in due(freshness(&publisher), &mut notifier, now()) {
            let sender = if to.is_ipv4() { &mut v4 } else { &mut v6 };
            if let Err(error) = sender.send(to, &octets).await {
                // It is sent again.
                tracing::debug!(%to, %error, "cannot tell a secondary");
            }
        }
        if notifier.given_up() > given_up {
            given_up = notifier.given_up();
            tracing::warn!(
                given_up,
                "secondaries do not answer to NOTIFY; they ask by themselves"
            );
        }
    }
}

fn freshness(publisher: &Publisher) -> Freshness {
    publisher.shared().load().freshness
}

/// Whoever comes because of a message now gets an answer.
fn answers(freshness: Freshness, now: Moment) -> bool {
    matches!(freshness, Freshness::Until(end_ms) if now.monotonic_ms < end_ms)
}

/// What is to be sent now. Who is told by a server that is not fresh would come and get SERVFAIL,
/// and then stay away for longer than if it had not been told.
fn due(freshness: Freshness, notifier: &mut Notifier, now: Moment) -> Vec<(SocketAddr, Vec<u8>)> {
    if answers(freshness, now) {
        notifier.poll(now)
    } else {
        Vec::new()
    }
}

/// Until the next message is due, or the clock is looked at. What is due while the server is not
/// fresh waits until it is, which brings news of all zones.
fn wait(freshness: Freshness, notifier: &Notifier, now: Moment) -> Duration {
    if !answers(freshness, now) {
        return LOOK_EVERY;
    }
    let due_ms = notifier.next_wakeup().unwrap_or(u64::MAX);
    let left_ms = due_ms.saturating_sub(now.monotonic_ms);
    Duration::from_millis(left_ms).min(LOOK_EVERY)
}

fn take_news(publisher: &Publisher, notifier: &mut Notifier) {
    let state = publisher.shared().load();
    for name in publisher.news().take() {
        match state.zones.get(&name).filter(|tree| !tree.is_closed()) {
            Some(tree) => notifier.changed(tree, now()),
            None => notifier.removed(&name),
        }
    }
}

async fn heard(notifier: &mut Notifier, got: io::Result<(usize, SocketAddr)>, octets: &[u8]) {
    let (length, from) = match got {
        Ok(got) => got,
        Err(error) => {
            // Not that of a message that was sent: a socket without IP_RECVERR does not hear of
            // those. If it stays, it must not take a core.
            tracing::warn!(%error, "cannot hear what secondaries reply to NOTIFY");
            tokio::time::sleep(LOOK_EVERY).await;
            return;
        }
    };
    match notifier.reply(from, &octets[..length], now()) {
        NotifyReply::Heard(zone, rcode) if rcode != 0 => {
            tracing::warn!(%zone, %from, rcode, "a secondary does not want to hear of a zone");
        }
        NotifyReply::Unsigned(zone, rcode) => {
            tracing::warn!(%zone, %from, rcode, "a secondary's reply is not rightly signed");
        }
        NotifyReply::Heard(..) | NotifyReply::Foreign => {}
    }
}

#[cfg(test)]
mod tests {
    use cfgdns_core::Tree;
    use cfgdns_zone::{Rdata, Rtype, Zone};

    use super::*;

    fn tree() -> Tree {
        let origin: Name = "a.".parse().expect("a name");
        let data = Rdata::parse(Rtype::SOA, "ns. root. 1 1 1 1 1", None).expect("an SOA");
        let mut zone = Zone::new(origin.clone());
        zone.insert(&origin, Rtype::SOA, 60, data)
            .expect("in the zone");
        Tree::build(&zone).expect("it has an SOA")
    }

    #[test]
    fn nobody_is_told_by_a_server_that_is_not_fresh() {
        let target = NotifyTarget {
            address: "192.0.2.1:53".parse().expect("an address"),
            key: None,
        };
        let mut notifier = Notifier::new(vec![target], PER_SECOND, [7; 16]);
        let at = |monotonic_ms| Moment {
            unix_seconds: 0,
            monotonic_ms,
        };
        notifier.changed(&tree(), at(0));
        assert_eq!(due(Freshness::Never, &mut notifier, at(0)), []);
        // Nor does it look without pause at what is due.
        assert_eq!(wait(Freshness::Never, &notifier, at(9)), LOOK_EVERY);
        let fresh = Freshness::Until(10);
        assert_eq!(wait(fresh, &notifier, at(9)), Duration::ZERO);
        assert_eq!(due(fresh, &mut notifier, at(10)), []);
        assert_eq!(due(fresh, &mut notifier, at(9)).len(), 1);
        // There was no reply: it is sent again, but not by a server that is fenced.
        assert_eq!(due(Freshness::Lost, &mut notifier, at(9_000)), []);
        let again = due(Freshness::Until(10_000), &mut notifier, at(9_000));
        assert_eq!(again.len(), 1);
    }

    #[tokio::test]
    async fn family_that_cannot_be_bound_is_tried_again_and_keeps_no_other_back() {
        let secondary = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let secondary = secondary.expect("an address of this machine");
        let to = secondary.local_addr().expect("bound");
        let mut other = Sender::new(Ipv4Addr::UNSPECIFIED.into());
        // An address that no machine has (RFC 5737), as where a family is off.
        let mut sender = Sender::new(Ipv4Addr::new(192, 0, 2, 1).into());
        for _ in 0..2 {
            let error = sender.send(to, b"lost").await.expect_err("it is not here");
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
            assert!(sender.said);
            other.send(to, b"other").await.expect("bound by itself");
        }
        sender.from = Ipv4Addr::LOCALHOST.into();
        sender.send(to, b"told").await.expect("it can be bound now");
        assert!(!sender.said && sender.socket.is_some());
        let mut octets = [0; 8];
        for expected in [&b"other"[..], b"other", b"told"] {
            let (length, _) = secondary.recv_from(&mut octets).await.expect("a message");
            assert_eq!(&octets[..length], expected);
        }
    }

    #[test]
    fn news_of_a_zone_are_taken_once() {
        let zone = |text: &str| -> Name { text.parse().expect("a name") };
        let news = News::new(true);
        news.add([zone("b."), zone("a.")]);
        news.add([zone("a.")]);
        assert_eq!(Vec::from_iter(news.take()), [zone("a."), zone("b.")]);
        assert!(news.take().is_empty());
        let unheard = News::new(false);
        unheard.add([zone("a.")]);
        assert!(unheard.take().is_empty());
    }
}
