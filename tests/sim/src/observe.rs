//! The app with a recorder around it: what each member publishes goes into the world's history.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cfgsvc::app::ServiceApp;
use cfgsvc::watch::hub::Hub;
use cfgsvc_proto::state::Reply;
use cfgsvc_proto::state::reply::Result as Outcome;
use cluster::{App, AppEntry, View};
use cluster_core::store::Overlay;
use prost::Message as _;

use crate::world::World;

/// [`ServiceApp`], observed.
pub struct Recorder {
    world: Arc<World>,
    member: u64,
    hub: Arc<Hub>,
    app: ServiceApp,
    /// First revision that was not recorded.
    next: i64,
    /// A step of a restore was applied.
    seeded: bool,
}

impl Recorder {
    /// Observes `app`, which publishes to `hub`.
    pub fn new(world: Arc<World>, member: u64, hub: Arc<Hub>, app: ServiceApp) -> Self {
        Self {
            world,
            member,
            hub,
            app,
            next: 0,
            seeded: false,
        }
    }
}

impl Recorder {
    /// The end of a restore leaves revisions out.
    fn restored(&mut self) {
        let last = self.hub.published();
        if last < self.next || self.hub.recent(self.next, usize::MAX).is_some() {
            return;
        }
        let mut next = last + 1;
        while self.hub.recent(next - 1, 1).is_some() {
            next -= 1;
        }
        self.next = next;
        self.world.restored(self.member, next - 1);
    }
}

impl App for Recorder {
    fn load(&mut self, view: &dyn View) -> io::Result<()> {
        self.app.load(view)?;
        let revision = self.hub.published();
        self.next = revision + 1;
        self.world.check(|checks| {
            checks.loaded(self.member, revision);
            Ok(())
        });
        Ok(())
    }

    fn apply(&mut self, state: &mut Overlay<'_>, entry: &AppEntry) -> io::Result<Bytes> {
        let reply = self.app.apply(state, entry)?;
        let decoded = Reply::decode(reply.clone()).map_err(io::Error::other)?;
        if let Some(Outcome::LeaseExpire(expired)) = &decoded.result {
            let text = format!("member {} ended leases {:x?}", self.member, expired.ids);
            self.world.event(&text);
            self.world
                .check(|checks| checks.leases.expired(&expired.ids));
        }
        self.seeded |= matches!(decoded.result, Some(Outcome::Seed(_)));
        Ok(reply)
    }

    fn published(&mut self, index: u64) {
        self.app.published(index);
        if std::mem::take(&mut self.seeded) {
            self.restored();
        }
        let commits = self.hub.recent(self.next, usize::MAX).unwrap_or_default();
        for commit in commits {
            self.next = commit.revision + 1;
            self.world.published(self.member, &commit);
        }
    }
}
