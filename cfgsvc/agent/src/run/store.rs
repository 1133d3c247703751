//! The store of a host's data, as its hook `position` tells: what the group was told of it, and
//! whether that is still so.
//!
//! Why so: the group gives a role by where a host's data ended when it came. A server that has
//! started again may lack what it had received and not written; one that was restored lacks more.
//! Who is told nothing of that takes the host for one that has everything.
//!
//! Invariants
//! - There is one run of the hook at a time, whoever asks.
//! - The host is looked at while nothing else of the role goes on here: no program, no hook, no
//!   start, no coming.
//! - A store that a hook has left is what that hook is for: it is not told of it again.
//! - A store that stays silent is told to the hook, also while the host comes: that goes on until
//!   the store answers, which it may do only by the hook.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cfgsvc_core::placement::objects::Data;
use tokio::sync::{Notify, mpsc, watch};

use super::ask::Question;
use super::hooks::{Hooks, Last, Told};
use crate::board::{Board, Part};
use crate::role::core::Event;

/// Longest time for the hook.
const POSITION_MAX: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many looks in a row that fail are as good as a store that was opened anew.
const FAILURES_MAX: u32 = 3;

/// What the hook prints of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) identity: String,
    pub(crate) position: String,
    /// Changes when the store was opened anew; empty when that is not known.
    pub(crate) life: String,
}

impl Said {
    fn parse(text: &str) -> Result<Option<Self>, String> {
        let words: Vec<_> = text.split_whitespace().collect();
        let said = |identity: &str, position: &str, life: &str| Self {
            identity: identity.to_owned(),
            position: position.to_owned(),
            life: life.to_owned(),
        };
        match words[..] {
            [identity, position] => Ok(Some(said(identity, position, ""))),
            [identity, position, life] => Ok(Some(said(identity, position, life))),
            [] => Ok(None),
            _ => Err(format!(
                "hook position printed {} words, expected IDENTITY POSITION [LIFE] or, without \
                 data, none",
                words.len()
            )),
        }
    }

    /// Whether there is anything in the store.
    pub(crate) fn has_data(&self) -> bool {
        // A zero is one of every kind.
        Data::Number.is_some(&self.position)
    }

    /// Whether `now` lacks something of what was there. The kind of data is the group's to know:
    /// a position is of one kind by its form, but for zero, which is of all.
    fn goes_back(&self, now: &Self) -> bool {
        let kinds = [Data::Number, Data::Gtid, Data::Lsn];
        let lacks = |kind: &Data| kind.covers(&now.position, &self.position) == Some(false);
        kinds.iter().any(lacks)
    }
}

/// How a store differs from what was said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    /// There was nothing in it.
    Filled,
    /// It is another, was opened anew, or lacks something.
    Reopened,
}

fn change(before: Option<&Said>, now: Option<&Said>) -> Change {
    match (before, now) {
        (None, Some(_)) => Change::Filled,
        (Some(_), None) => Change::Reopened,
        (Some(was), Some(is)) if was.identity != is.identity || was.life != is.life => {
            Change::Reopened
        }
        (Some(was), Some(is)) if was.goes_back(is) => Change::Reopened,
        (Some(was), Some(is)) if !was.has_data() && is.has_data() => Change::Filled,
        (None, None) | (Some(_), Some(_)) => Change::None,
    }
}

/// How many hooks had ended when the store was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

#[derive(Debug, Default)]
struct Known {
    /// What the group was told when the host came last.
    came: Option<Said>,
    /// What was seen last, in which the hook of the verdict has a part.
    seen: Option<(Ticket, Option<Said>)>,
    /// Hooks that have ended, which may have opened the store anew.
    ended: Ticket,
    failed: u32,
    /// The hook of the verdict is to be told again.
    again: bool,
}

impl Known {
    /// It was asked and did not answer; whether that is so for too long.
    fn fails(&mut self) -> bool {
        self.failed += 1;
        let is_silent = self.failed == FAILURES_MAX;
        if is_silent {
            self.failed = 0;
        }
        is_silent
    }

    /// Whether it was opened anew since it was seen last, and no hook has ended since then.
    fn sees(&mut self, ticket: Ticket, said: Option<Said>) -> bool {
        let reopened = self.seen.as_ref().is_some_and(|(drawn, was)| {
            let same = *drawn == ticket && ticket == self.ended;
            same && change(was.as_ref(), said.as_ref()) == Change::Reopened
        });
        self.seen = Some((ticket, said));
        reopened
    }
}

/// What comes of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looked {
    /// The group must be told what there is now.
    says_anew: bool,
    /// And the hook of the verdict, what the verdict is.
    tells_again: bool,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    known: Mutex<Known>,
    position: tokio::sync::Mutex<Question>,
    retold: Notify,
}

impl Default for Store {
    fn default() -> Self {
        let position = Question::new("position", POSITION_MAX);
        Self {
            known: Mutex::default(),
            position: tokio::sync::Mutex::new(position),
            retold: Notify::new(),
        }
    }
}

impl Store {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the hook says. None without the hook, or data.
    pub(crate) async fn ask(&self, hooks: &Hooks, told: &Told) -> Result<Option<Said>, String> {
        if hooks.path("position").is_none() {
            return Ok(None);
        }
        let said = self.position.lock().await.says(hooks, told).await?;
        Said::parse(&said)
    }

    /// To be drawn before the store is asked what the group is told.
    pub(crate) fn ticket(&self) -> Ticket {
        self.known().ended
    }

    /// The host has come with this.
    pub(crate) fn came(&self, ticket: Ticket, said: Option<Said>) {
        let mut known = self.known();
        known.came.clone_from(&said);
        known.failed = 0;
        if known.sees(ticket, said) {
            drop(known);
            self.tell_again();
        }
    }

    /// The host is to come, and the store did not say what is in it.
    pub(crate) fn not_asked(&self) {
        if self.known().fails() {
            self.tell_again();
        }
    }

    /// Whether the group must be told of the store before it lets the host begin with it.
    pub(crate) fn is_another(&self, said: Option<&Said>) -> bool {
        let life = |said: Option<&Said>| said.map(|said| said.life.clone()).unwrap_or_default();
        let known = self.known();
        let was = known.came.as_ref();
        change(was, said) == Change::Reopened || life(was) != life(said)
    }

    /// The store was looked at.
    fn looked(&self, said: Result<Option<Said>, String>) -> Looked {
        let mut known = self.known();
        let Ok(said) = said else {
            let opened = known.fails();
            return Looked {
                says_anew: opened,
                tells_again: opened,
            };
        };
        known.failed = 0;
        let ticket = known.ended;
        Looked {
            says_anew: change(known.came.as_ref(), said.as_ref()) != Change::None,
            tells_again: known.sees(ticket, said),
        }
    }

    fn tell_again(&self) {
        self.known().again = true;
        self.retold.notify_one();
    }

    /// A hook has ended that may have opened the store anew, and knows of it.
    pub(crate) fn hook_ended(&self) {
        let mut known = self.known();
        known.ended.0 += 1;
        known.again = false;
    }

    /// Whether the hook of the verdict is to be told again; asked once.
    pub(crate) fn tells_again(&self) -> bool {
        std::mem::take(&mut self.known().again)
    }

    /// Waits until it may be so.
    pub(crate) async fn retold(&self) {
        self.retold.notified().await;
    }
}

/// Looks at the store again and again.
#[derive(Debug)]
pub(crate) struct Looks {
    pub(crate) hooks: Hooks,
    pub(crate) store: Arc<Store>,
    pub(crate) last: Last,
    /// Nothing of the role is under way here, and the host attends with a store.
    pub(crate) rests: watch::Receiver<bool>,
    pub(crate) board: Arc<Board>,
    pub(crate) events: mpsc::Sender<Event>,
}

impl Looks {
    /// Goes on until it is dropped; `told` is for the hook's environment.
    pub(crate) async fn go_on(&mut self, told: &Told) -> Infallible {
        let mut stirs = self.rests.clone();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.rests.wait_for(|rests| *rests).await.is_err() {
                // The role is left.
                std::future::pending::<()>().await;
            }
            let Ok(_alone) = self.last.try_lock() else {
                continue;
            };
            let said = tokio::select! {
                biased;
                _ = stirs.wait_for(|rests| !*rests) => continue,
                said = self.store.ask(&self.hooks, told) => said,
            };
            let problem = said.as_ref().err().cloned();
            self.board
                .problem(&self.hooks.role, Part::Position, problem);
            let shown = format!("{said:?}");
            let looked = self.store.looked(said);
            if looked.says_anew {
                let role = &self.hooks.role;
                tracing::warn!(role, said = shown, "the store is not as the group knows it");
                // Nobody to tell: the role is left.
                let _ = self.events.send(Event::SaysAnew).await;
            }
            if looked.tells_again {
                self.store.tell_again();
            }
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
