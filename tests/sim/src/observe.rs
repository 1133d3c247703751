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
        }
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
        Ok(reply)
    }

    fn published(&mut self, index: u64) {
        self.app.published(index);
        let commits = self.hub.recent(self.next, usize::MAX).unwrap_or_default();
        for commit in commits {
            self.next = commit.revision + 1;
            self.world.published(self.member, &commit);
        }
    }
}
