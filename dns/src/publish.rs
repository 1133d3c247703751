//! From the group's changes to the state that sockets answer from.
//!
//! One place builds and publishes, under the lock of what is followed: zones and until when they
//! are fresh are always of one copy, so that a confirmation never vouches for zones that are older
//! than it. A server that comes back is fresh by the one store that also has the zones of now.
//!
//! What only secondaries and people want to know of a change is done before the store where few
//! zones changed, so that whoever asks for what has changed gets that. Where a role moves that many
//! zones follow it is most of the work, and comes after the store: the zones are settled by a task
//! of its own, one set after the other, and those that were replaced meanwhile are left out. Who
//! asks in between gets the whole zone.

use std::sync::{Arc, Mutex, PoisonError};

use cfgdns_core::{Settings, State, Zones};
use cfgdns_net::Shared;
use cfgdns_sign::PrivateKey;
use cfgdns_view::{Entry, View, ZoneChange, settle};
use cfgdns_zone::Name;
use cfgsvc_client::{Event, EventKind, Freshness, Keep, KeyValue, MirrorState, Moment};
use tokio::sync::{Notify, watch};

use crate::news::News;

/// Zones whose changes are logged one by one in a revision; the others are counted.
const LOGGED_MAX: usize = 8;

/// Changed zones that are settled before they are answered: some 10 us each, and 35 ms of one with
/// 100,000 names that is signed by other keys.
const SETTLED_FIRST_MAX: usize = 8;

/// Makes zones of the keys that are followed.
#[derive(Debug, Default)]
pub struct Keys {
    view: View,
}

impl Keys {
    /// None so far; with a name, a catalog of the zones is made there. Zones that are to be signed
    /// are signed with these.
    pub fn new(catalog: Option<Name>, private: Vec<PrivateKey>) -> Self {
        let mut view = View::new(catalog);
        view.set_keys(private);
        Self { view }
    }

    /// Zones are signed with these from now on.
    pub fn set_private(&mut self, private: Vec<PrivateKey>) {
        self.view.set_keys(private);
    }
}

fn entry(kv: &KeyValue) -> Entry<'_> {
    Entry {
        key: &kv.key,
        value: &kv.value,
        created: kv.create_revision,
        changed: kv.mod_revision,
    }
}

impl Keep for Keys {
    type Changes = ();

    // Ten thousand zones that come in as many revisions are not put in order as many times.
    const MERGES: bool = true;

    fn load(&mut self, kvs: Vec<KeyValue>) {
        self.view.load(kvs.iter().map(entry));
    }

    fn apply(&mut self, events: Vec<Event>) {
        for Event { kind, kv, .. } in events {
            match kind {
                EventKind::Put => self.view.put(entry(&kv)),
                EventKind::Delete => self.view.delete(&kv.key),
            }
        }
    }
}

/// Publishes zones, freshness and settings to the sockets.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    present: Mutex<State>,
    freshness: watch::Sender<Freshness>,
    /// The zones whose changes are told.
    settled: Mutex<Zones>,
    unsettled: Notify,
    news: News,
}

impl Publisher {
    /// Not ready, with these settings; whether there are secondaries to tell of changes. The
    /// receiver is told of each change of freshness.
    pub fn new(settings: Settings, secondaries: bool) -> (Self, watch::Receiver<Freshness>) {
        let state = State {
            zones: Zones::default(),
            freshness: cfgdns_core::Freshness::Never,
            settings,
        };
        let (freshness, told) = watch::channel(Freshness::Never);
        let publisher = Self {
            shared: Arc::new(Shared::new(state.clone())),
            present: Mutex::new(state),
            freshness,
            settled: Mutex::default(),
            unsettled: Notify::new(),
            news: News::new(secondaries),
        };
        (publisher, told)
    }

    /// What the sockets answer from.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Zones that secondaries have not heard of.
    pub fn news(&self) -> &News {
        &self.news
    }

    /// Secondaries are told of all zones: they may have asked while nothing was told.
    pub fn tell_all(&self) {
        let state = self.shared.load();
        self.news.add(state.zones.origins().cloned());
    }

    /// Tells the log and secondaries of all that changes, until the task is dropped.
    pub async fn settle(self: Arc<Self>) {
        loop {
            self.unsettled.notified().await;
            let publisher = Arc::clone(&self);
            // It may take long, and nobody waits for it.
            let settling = tokio::task::spawn_blocking(move || publisher.settle_now());
            if let Err(error) = settling.await {
                tracing::error!(%error, "changes are told to nobody any more");
                return;
            }
        }
    }

    fn settle_now(&self) {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of now: once `settled` is held nobody settles others first. Whoever holds `present`
        // does not wait for `settled`.
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let zones = present.zones.clone();
        drop(present);
        let changes = settle(&settled, &zones);
        *settled = zones;
        drop(settled);
        self.say(changes);
    }

    /// Settles zones that are not answered yet, when they are few; none when they are to be settled
    /// later, with those that are being settled.
    fn settle_first(&self, zones: &Zones) -> Option<Vec<ZoneChange>> {
        let mut settled = self.settled.try_lock().ok()?;
        if zones.changed(&settled) > SETTLED_FIRST_MAX {
            return None;
        }
        let changes = settle(&settled, zones);
        *settled = zones.clone();
        Some(changes)
    }

    fn say(&self, changes: Vec<ZoneChange>) {
        log(&changes);
        let others = |change: &ZoneChange| change.before != change.after;
        let changes = changes.into_iter().filter(others);
        self.news.add(changes.map(|change| change.name));
    }

    /// Takes what is followed after a change; `changed`: of the keys, not of freshness alone.
    pub fn take(&self, state: &mut MirrorState<Keys>, changed: bool) {
        self.take_at(state, changed, Moment::now());
    }

    fn take_at(&self, state: &mut MirrorState<Keys>, changed: bool, now: Moment) {
        let freshness = state.freshness(now);
        let now_ms = now.nanos() / 1_000_000;
        let mut back = false;
        let mut settled = None;
        self.publish(|present| {
            if changed {
                present.zones = state.kept_mut().view.build(&present.zones);
                settled = self.settle_first(&present.zones);
            }
            let before = std::mem::replace(&mut present.freshness, for_answers(freshness));
            back = is_fresh(present.freshness, now_ms) && !is_fresh(before, now_ms);
        });
        self.freshness.send_replace(freshness);
        // After the zones are there: whoever takes the news looks at them.
        match settled {
            Some(changes) => self.say(changes),
            None if changed => self.unsettled.notify_one(),
            None => {}
        }
        if back {
            self.tell_all();
        }
    }

    /// Other settings, with the zones that there are.
    pub fn set(&self, settings: Settings) {
        self.publish(|present| present.settings = settings);
    }

    fn publish(&self, change: impl FnOnce(&mut State)) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut present);
        self.shared.store(Arc::new(present.clone()));
    }
}

/// Whether zones are answered at a moment of that clock.
fn is_fresh(freshness: cfgdns_core::Freshness, now_ms: u64) -> bool {
    matches!(freshness, cfgdns_core::Freshness::Until(end_ms) if now_ms < end_ms)
}

/// In the clock of [`cfgdns_net::now`].
fn for_answers(freshness: Freshness) -> cfgdns_core::Freshness {
    match freshness {
        Freshness::Never => cfgdns_core::Freshness::Never,
        Freshness::Fresh { until, .. } => {
            // Whole milliseconds, rounded down: never longer than it is.
            cfgdns_core::Freshness::Until(until.nanos() / 1_000_000)
        }
        Freshness::Stale { .. } => cfgdns_core::Freshness::Lost,
    }
}

fn log(changes: &[ZoneChange]) {
    for change in changes.iter().take(LOGGED_MAX) {
        let zone = &change.name;
        if let Some(why) = &change.unsigned {
            tracing::error!(%zone, why, "SERVFAIL to who wants signatures; see --zone-keys");
        }
        match (change.before, change.after, &change.closed) {
            (_, _, Some(why)) => {
                tracing::error!(%zone, %why, "zone is closed: SERVFAIL; is this server too old?");
            }
            (None, Some(serial), None) => tracing::info!(%zone, serial, "zone is served"),
            (Some(before), Some(serial), None) if before != serial => {
                tracing::info!(%zone, before, serial, "zone changed");
            }
            (_, Some(_), None) => {}
            (_, None, None) => tracing::info!(%zone, "zone is gone"),
        }
    }
    let more = changes.len().saturating_sub(LOGGED_MAX);
    if more > 0 {
        tracing::info!(zones = more, "more zones changed with these");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn kv(key: &'static str, value: &'static str) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            mod_revision: 5,
            create_revision: 5,
            ..KeyValue::default()
        }
    }

    #[test]
    fn secondaries_hear_of_changes_and_of_all_when_the_server_is_back_however_briefly_it_was_fenced()
     {
        let at = |ms| Moment::since_boot(Duration::from_millis(ms));
        let (publisher, _told) = Publisher::new(Settings::default(), true);
        let mut state = MirrorState::keeping(Keys::default(), Duration::from_millis(100));
        let apex = r#"{"sets":{"NS":{"ttl":60,"data":["ns"]},
            "SOA":{"ttl":60,"data":["ns root 1 2 3 4 5"]}}}"#;
        let keys = vec![
            kv("/cfgsvc/names/a/1/@", apex),
            kv("/cfgsvc/zones/a", r#"{"generation":1}"#),
            kv("/cfgsvc/serials/a", r#"{"count":1}"#),
        ];
        let zone: Name = "a.".parse().expect("a name");
        let told = |publisher: &Publisher| {
            publisher.settle_now();
            Vec::from_iter(publisher.news().take())
        };
        state.load(keys, 5, at(1));
        state.barrier(5, (at(1), at(2)), 5);
        publisher.take_at(&mut state, true, at(10));
        assert_eq!(told(&publisher), std::slice::from_ref(&zone));
        // Confirmed in time: nothing is new.
        state.barrier(5, (at(60), at(61)), 5);
        publisher.take_at(&mut state, false, at(70));
        assert_eq!(told(&publisher), []);
        // Too late, though nobody has looked in between.
        state.barrier(5, (at(180), at(181)), 5);
        publisher.take_at(&mut state, false, at(190));
        assert_eq!(told(&publisher), [zone]);
    }
}
