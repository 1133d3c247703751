//! From the group's changes to the state that sockets answer from.
//!
//! One place builds and publishes, under the lock of what is followed: zones and until when they
//! are fresh are always of one copy, so that a confirmation never vouches for zones that are older
//! than it. A server that comes back is fresh by the one store that also has the zones of now.

use std::sync::{Arc, Mutex, PoisonError};

use cfgdns_core::{Settings, State, Zones};
use cfgdns_net::Shared;
use cfgdns_sign::PrivateKey;
use cfgdns_view::{Entry, View, ZoneChange};
use cfgdns_zone::Name;
use cfgsvc_client::{Event, EventKind, Freshness, Keep, KeyValue, MirrorState, Moment};
use tokio::sync::watch;

use crate::news::News;

/// Zones whose changes are logged one by one in a revision; the others are counted.
const LOGGED_MAX: usize = 8;

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
    news: News,
}

impl Publisher {
    /// Not ready, with these settings. The receiver is told of each change of freshness.
    pub fn new(settings: Settings) -> (Self, watch::Receiver<Freshness>) {
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
            news: News::default(),
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
        self.news
            .add(state.zones.trees().map(|tree| tree.origin().clone()));
    }

    /// Takes what is followed after a change; `changed`: of the keys, not of freshness alone.
    pub fn take(&self, state: &mut MirrorState<Keys>, changed: bool) {
        let freshness = state.freshness(Moment::now());
        self.publish(|present| {
            if changed {
                let built = state.kept_mut().view.build(&present.zones);
                present.zones = built.zones;
                log(&built.changes);
                let changed = built.changes.iter();
                let changed = changed.filter(|change| change.before != change.after);
                self.news.add(changed.map(|change| change.name.clone()));
            }
            present.freshness = for_answers(freshness);
        });
        self.freshness.send_replace(freshness);
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
