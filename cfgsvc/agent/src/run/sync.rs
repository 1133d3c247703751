//! What a holder says to the group while it serves: what the hook `sync` has found, [`Sync`] with
//! processes, calls and a lock; and where its data is, when the group wants to know.
//!
//! A run that an agent leaves behind that is killed could have the database wait for fewer hosts
//! while the next agent's counts on more: so it holds the lock that the next agent waits for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfgsvc_client::{CallError, Refusal, Sync as Request};
use cfgsvc_core::placement::Name;
use tokio::time::{Instant, MissedTickBehavior};

use super::ask::Question;
use super::beside::Beside;
use super::role::Settings;
use super::store::Store;
use crate::board::Part;
use crate::group::{ATTEMPT_MAX, AskError, Group};
use crate::role::sync::{Done, Hosts, Sync};
use crate::state;

/// From one run's beginning to the next one's.
const EVERY: Duration = Duration::from_millis(500);
/// From one word on where the data is to the next. What was written since the last one is unknown
/// when the holder is lost.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Longest time for a run.
const SYNC_MAX: Duration = Duration::from_secs(10);
/// Longest time for the position that is told with it: a list is more urgent.
const POSITION_MAX: Duration = Duration::from_secs(2);

/// What the group counts in an epoch, as of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Count {
    epoch: i64,
    revision: i64,
    hosts: Hosts,
}

/// Whether the group wants to hear where the data is, in an epoch as of a revision.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    at: (i64, i64),
    asked: bool,
}

/// The newest that was heard of it, in answers and verdicts; and in verdicts, what it asks.
#[derive(Debug, Default)]
pub(crate) struct Counted(Mutex<Count>, Mutex<Asked>);

impl Counted {
    /// An answer or a verdict says so.
    pub(crate) fn hear(&self, (epoch, revision): (i64, i64), hosts: Vec<String>) {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if (epoch, revision) > (count.epoch, count.revision) {
            let hosts = hosts.into_iter().collect();
            *count = Count {
                epoch,
                revision,
                hosts,
            };
        }
    }

    /// A verdict says so.
    pub(crate) fn hear_asked(&self, at: (i64, i64), asked: bool) {
        let mut newest = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if at > newest.at {
            *newest = Asked { at, asked };
        }
    }

    /// Whether the group wants to hear where the data of this epoch is.
    fn asks(&self, epoch: i64) -> bool {
        let newest = *self.1.lock().unwrap_or_else(PoisonError::into_inner);
        newest.at.0 == epoch && newest.asked
    }

    fn newest(&self) -> Count {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Whoever speaks to the group for a holder.
#[derive(Debug)]
pub(crate) struct Voice {
    pub(crate) settings: Arc<Settings>,
    pub(crate) group: Arc<Group>,
    pub(crate) store: Arc<Store>,
    pub(crate) counted: Arc<Counted>,
    pub(crate) lease: i64,
}

/// What of a call was not answered.
struct Missed {
    done: Done,
    /// The group does not answer.
    silent: bool,
    why: String,
}

impl Missed {
    fn of(error: &AskError) -> Self {
        let refused = matches!(error, AskError::Call(CallError::Refused { .. }));
        // By who is there, and since when: a copy of it that comes late is refused by the same.
        let for_good = refused && error.refusal() == Some(Refusal::NotAvailable);
        let done = if for_good {
            Done::Refused
        } else {
            Done::Unknown
        };
        Self {
            done,
            silent: !refused,
            why: format!("cannot tell the group who is in sync: {error}"),
        }
    }
}

impl Voice {
    /// A revision of the group, of now.
    async fn revision(&self, epoch: i64) -> Option<i64> {
        let role = &self.settings.role;
        let asked = self.group.ask(ATTEMPT_MAX, async |client| {
            client.check_epoch(role, epoch).await
        });
        // Without it, nobody new is counted on; what fails is shown with the calls that follow.
        asked.await.ok()?.header.map(|header| header.revision)
    }

    async fn say(&self, request: &Request) -> Result<(), Missed> {
        let asked = self
            .group
            .ask(ATTEMPT_MAX, async |client| client.sync_role(request).await);
        let answer = asked.await.map_err(|error| Missed::of(&error))?;
        let revision = answer.header.map_or(0, |header| header.revision);
        self.counted.hear((answer.epoch, revision), answer.synced);
        Ok(())
    }
}

/// What is said of a role while it is served.
#[derive(Debug)]
pub(crate) struct Syncs<'a> {
    beside: Beside<'a>,
    voice: &'a Voice,
    hook: Question,
    held: bool,
    sync: Sync,
    /// What the group counts in this epoch.
    count: Count,
    /// The position that the group has heard last, and when it was asked for.
    said: String,
    asked: Option<Instant>,
}

impl<'a> Syncs<'a> {
    pub(crate) fn new(beside: Beside<'a>, voice: &'a Voice) -> Self {
        let epoch = beside.told.epoch;
        Self {
            beside,
            voice,
            hook: Question::new("sync", SYNC_MAX),
            held: false,
            sync: Sync::default(),
            count: Count {
                epoch,
                ..Count::default()
            },
            said: String::new(),
            asked: None,
        }
    }

    /// Goes on until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut next = tokio::time::interval(EVERY);
        next.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            next.tick().await;
            let hooks = self.beside.hooks;
            let synced = match hooks.path("sync") {
                Some(_) => self.round().await,
                None => Ok(()),
            };
            let told = self.tell().await;
            let problem = synced.and(told).err();
            self.beside.board.problem(&hooks.role, Part::Sync, problem);
        }
    }

    /// What is heard of another epoch is no news of this one.
    fn counted(&mut self) -> &Hosts {
        let newest = self.voice.counted.newest();
        if newest.epoch == self.count.epoch && newest.revision > self.count.revision {
            self.count = newest;
        }
        &self.count.hosts
    }

    /// Runs the hook, and tells the group what it does not know of that.
    async fn round(&mut self) -> Result<(), String> {
        let counted = self.counted().clone();
        let mut revision = None;
        if !self.sync.is_settled(&counted) {
            // A host that came after the last word could not be added by that.
            revision = self.voice.revision(self.count.epoch).await;
        }
        let counted = self.counted().clone();
        let revision = revision.unwrap_or(0).max(self.count.revision);
        let waits = self.sync.looks(&counted);
        let wanted = self.ask(waits).await?;
        self.sync.wants(wanted);
        let mut result = Ok(());
        let mut position = None;
        loop {
            let counted = self.counted().clone();
            let Some(list) = self.sync.next(&counted) else {
                return result;
            };
            if position.is_none() {
                position = Some(self.position().await);
            }
            let position = position.clone().unwrap_or_default();
            result = self.say((list, position), revision).await.and(result);
        }
    }

    /// Tells the group where the data is, when it wants to know and that is news.
    async fn tell(&mut self) -> Result<(), String> {
        let early = self.asked.is_some_and(|at| at.elapsed() < TELL_EVERY);
        if early || !self.voice.counted.asks(self.count.epoch) {
            return Ok(());
        }
        self.asked = Some(Instant::now());
        let position = self.position().await;
        if position.is_empty() || position == self.said {
            return Ok(());
        }
        // Who is counted on stays so: the database waits for them.
        let list = self.counted().clone();
        let revision = self.count.revision;
        self.say((list, position), revision).await
    }

    async fn say(
        &mut self,
        (list, position): (Hosts, String),
        revision: i64,
    ) -> Result<(), String> {
        let settings = &self.voice.settings;
        let request = Request {
            role: settings.role.clone(),
            host: settings.host.clone(),
            lease: self.voice.lease,
            epoch: self.count.epoch,
            synced: list.iter().cloned().collect(),
            position,
            attempt: settings.attempts.next(),
            revision,
        };
        match self.voice.say(&request).await {
            Ok(()) => {
                self.sync.done(&list, Done::Answered);
                self.said = request.position;
                Ok(())
            }
            Err(missed) => {
                self.sync.done(&list, missed.done);
                if missed.silent {
                    self.sync.give_up();
                }
                Err(missed.why)
            }
        }
    }

    /// What the hook prints that is told whom the database must wait for.
    async fn ask(&mut self, waits: Hosts) -> Result<Hosts, String> {
        let Beside { hooks, told, .. } = self.beside;
        if !self.held {
            let lock = state::hold(&hooks.lock);
            let lock = lock.map_err(|error| format!("hook sync: {error}"))?;
            self.hook.hold(lock.into());
            self.held = true;
        }
        let waits: Vec<_> = waits.into_iter().collect();
        self.hook.tell("CFGSVC_SYNCED", waits.join(","));
        hosts(&self.hook.says(hooks, told).await?)
    }

    /// Where the data is now; empty when that cannot be said, which is shown.
    async fn position(&self) -> String {
        let Beside { hooks, told, .. } = self.beside;
        let asked = tokio::time::timeout(POSITION_MAX, self.voice.store.ask(hooks, told));
        let (said, problem) = match asked.await {
            Ok(Ok(said)) => (said, None),
            Ok(Err(why)) => (None, Some(why)),
            Err(_) => {
                let limit = POSITION_MAX.as_secs();
                let why = format!("hook position did not end within {limit} s, while it serves");
                (None, Some(why))
            }
        };
        self.beside
            .board
            .problem(&hooks.role, Part::Position, problem);
        said.map(|said| said.position).unwrap_or_default()
    }
}

/// Names of hosts, between commas and space.
fn hosts(printed: &str) -> Result<Hosts, String> {
    let names = printed.split(|c: char| c == ',' || c.is_whitespace());
    let names = names.filter(|name| !name.is_empty());
    let host = |name: &str| match Name::try_from(name.to_owned()) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(error) => Err(format!("hook sync printed what is no host: {error}")),
    };
    names.map(host).collect()
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
