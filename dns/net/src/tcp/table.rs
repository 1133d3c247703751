//! Who is connected, and who has to make room.
//!
//! Where there are too many, the connection that is idle for longest is closed, as a client must
//! expect at any time (RFC 7766 6.2.3); a new one is refused when none is idle. To stop accepting
//! instead would make everybody wait who comes after as many sleepers as there are places.
//!
//! Invariants
//! - no more places are given than there are, in all and for each client;
//! - a place is given back when its ticket is dropped, or was taken.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

/// When a connection that is not idle became so: later than any other.
const BUSY: u64 = u64::MAX;

/// Who shares a limit: an address of IPv4, or the /64 that a host of IPv6 has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        })
    }
}

/// How many there can be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub(crate) all: usize,
    pub(crate) of_client: usize,
}

#[derive(Debug)]
struct Place {
    client: Client,
    /// Since when nothing is under way, counted by events; written by its connection.
    idle_since: AtomicU64,
    taken: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    places: BTreeMap<u64, Arc<Place>>,
    clients: BTreeMap<Client, usize>,
    next: u64,
}

impl Taken {
    /// Whether a place was there.
    fn remove(&mut self, number: u64) -> Option<Arc<Place>> {
        let place = self.places.remove(&number)?;
        let of_client = self.clients.get_mut(&place.client);
        let of_client = of_client.expect("who has a place is counted");
        *of_client -= 1;
        if *of_client == 0 {
            self.clients.remove(&place.client);
        }
        Some(place)
    }

    /// The connection of those that is idle for longest. A walk over all: it costs some
    /// microseconds, only where there are too many, and nothing when a request comes.
    fn longest_idle(&self, whose: impl Fn(&Place) -> bool) -> Option<u64> {
        let places = self.places.iter().filter(|(_, place)| whose(place));
        let idle =
            places.map(|(number, place)| (place.idle_since.load(Ordering::Relaxed), *number));
        idle.filter(|(since, _)| *since != BUSY)
            .min()
            .map(|(_, number)| number)
    }
}

/// All connections of a server.
#[derive(Debug)]
pub(crate) struct Table {
    limits: Places,
    taken: Mutex<Taken>,
    /// Counts events, so that what is older has a smaller number.
    events: AtomicU64,
}

/// What a new connection finds.
pub(crate) enum Admission {
    /// A place, and whether another connection lost its own for it.
    Place { ticket: Ticket, evicted: bool },
    /// None.
    Refused,
}

impl Table {
    pub(crate) fn new(limits: Places) -> Arc<Self> {
        Arc::new(Self {
            limits,
            taken: Mutex::default(),
            events: AtomicU64::new(0),
        })
    }

    /// Gives a place to a connection that begins.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Admission {
        let client = Client::from(address);
        let mut taken = self.lock();
        let of_client = taken.clients.get(&client).copied().unwrap_or(0);
        let mut evicted = false;
        if of_client >= self.limits.of_client || taken.places.len() >= self.limits.all {
            let own = of_client >= self.limits.of_client;
            let found = taken.longest_idle(|place| !own || place.client == client);
            let Some(place) = found.and_then(|number| taken.remove(number)) else {
                return Admission::Refused;
            };
            place.taken.notify_one();
            evicted = true;
        }
        let number = taken.next;
        taken.next += 1;
        *taken.clients.entry(client).or_default() += 1;
        let place = Arc::new(Place {
            client,
            idle_since: AtomicU64::new(self.event()),
            taken: Notify::new(),
        });
        taken.places.insert(number, Arc::clone(&place));
        let ticket = Ticket {
            table: Arc::clone(self),
            number,
            place,
        };
        Admission::Place { ticket, evicted }
    }

    /// Closes the connection that is idle for longest: whether there was one.
    pub(crate) fn evict(&self) -> bool {
        let mut taken = self.lock();
        let found = taken.longest_idle(|_| true);
        let place = found.and_then(|number| taken.remove(number));
        place.inspect(|place| place.taken.notify_one()).is_some()
    }

    /// Connections that have a place.
    pub(crate) fn open(&self) -> usize {
        self.lock().places.len()
    }

    fn event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("nobody panics with this lock")
    }
}

/// The place of a connection.
#[derive(Debug)]
pub(crate) struct Ticket {
    table: Arc<Table>,
    number: u64,
    place: Arc<Place>,
}

impl Ticket {
    /// Says whether anything is under way.
    pub(crate) fn set_idle(&self, idle: bool) {
        let since = if idle { self.table.event() } else { BUSY };
        self.place.idle_since.store(since, Ordering::Relaxed);
    }

    /// Waits until somebody else needs the place.
    pub(crate) async fn taken(place: PlaceOf) {
        place.0.taken.notified().await;
    }

    /// What to wait for.
    pub(crate) fn place(&self) -> PlaceOf {
        PlaceOf(Arc::clone(&self.place))
    }
}

/// The place of a ticket, to wait for its end.
#[derive(Debug)]
pub(crate) struct PlaceOf(Arc<Place>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.table.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(all: usize, of_client: usize) -> Arc<Table> {
        Table::new(Places { all, of_client })
    }

    fn admit(table: &Arc<Table>, address: &str) -> Option<(Ticket, bool)> {
        match table.admit(address.parse().expect("an address")) {
            Admission::Place { ticket, evicted } => Some((ticket, evicted)),
            Admission::Refused => None,
        }
    }

    fn has_place(table: &Arc<Table>, ticket: &Ticket) -> bool {
        table.lock().places.contains_key(&ticket.number)
    }

    #[test]
    fn longest_idle_makes_room_and_busy_ones_do_not() {
        let table = table(3, 3);
        let places = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
        let places = places.map(|address| admit(&table, address).expect("room").0);
        places[0].set_idle(false);
        places[1].set_idle(false);
        places[1].set_idle(true);
        // The first is busy, the second idle for less long than the third.
        let (fourth, evicted) = admit(&table, "192.0.2.4").expect("the place of the third");
        assert!(evicted && !has_place(&table, &places[2]) && has_place(&table, &places[1]));
        fourth.set_idle(false);
        let (fifth, _) = admit(&table, "192.0.2.5").expect("the place of the second");
        fifth.set_idle(false);
        assert!(admit(&table, "192.0.2.6").is_none(), "all are busy");
        assert_eq!(table.open(), 3);
        drop(fifth);
        assert!(!admit(&table, "192.0.2.6").expect("room").1);
    }

    #[test]
    fn client_makes_room_among_its_own() {
        let table = table(10, 2);
        let (other, _) = admit(&table, "2001:db8:0:1::1").expect("room");
        let (first, _) = admit(&table, "2001:db8::1").expect("room");
        let (second, _) = admit(&table, "2001:db8::ffff:0:0:2").expect("room");
        let (third, evicted) = admit(&table, "2001:db8::3").expect("room");
        assert!(evicted && !has_place(&table, &first) && has_place(&table, &other));
        second.set_idle(false);
        third.set_idle(false);
        assert!(admit(&table, "2001:db8::4").is_none());
        let (_, evicted) = admit(&table, "::ffff:192.0.2.1").expect("another client");
        assert!(!evicted);
    }

    #[test]
    fn evicted_connection_gives_no_place_back_twice() {
        let table = table(2, 2);
        let (first, _) = admit(&table, "192.0.2.1").expect("room");
        let (_second, _) = admit(&table, "192.0.2.1").expect("room");
        let (_third, evicted) = admit(&table, "192.0.2.1").expect("room");
        assert!(evicted);
        drop(first);
        assert_eq!((table.open(), table.evict(), table.open()), (2, true, 1));
    }
}
