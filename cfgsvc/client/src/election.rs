//! Who leads an election: the holder of a lock, its epoch, and what it stands for.
//!
//! The first answer is linearizable; after it each change of who holds the lock is looked at when
//! its watch tells of it, within milliseconds.

use crate::Client;
use crate::error::{CallError, WatchError};
use crate::refusal::Refusal;
use crate::roles::RoleState;
use crate::watch::{Watch, WatchOptions};

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its name.
    pub host: String,
    /// The epoch that it holds.
    pub epoch: i64,
    /// What it stands for.
    pub value: String,
}

/// What the observer has told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Nothing that still counts.
    Nothing,
    Leads(Option<Leader>),
}

/// Follows who leads. Of leaders that follow each other faster than they can be looked at, the
/// last is told.
#[derive(Debug)]
pub struct Observer {
    client: Client,
    role: String,
    watch: Option<Watch>,
    /// Something may have changed since the last look.
    look: bool,
    told: Told,
}

impl Observer {
    /// Who leads, `None` when nobody does: at first at once, then when it has changed. After an
    /// error that says [`WatchError::retryable`] it may be asked again, and looks anew; until then
    /// nothing is known. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Leader>, WatchError> {
        let changed = self.changed().await;
        if changed.is_err() {
            self.watch = None;
            self.told = Told::Nothing;
        }
        changed
    }

    async fn changed(&mut self) -> Result<Option<Leader>, WatchError> {
        loop {
            let watch = match &mut self.watch {
                Some(watch) => watch,
                none => {
                    // Before the look, so that nothing between the two is missed.
                    let key = format!("/cfgsvc/grants/{}", self.role).into_bytes();
                    let watch = self.client.watch(WatchOptions::new(key)).await?;
                    self.look = true;
                    none.insert(watch)
                }
            };
            if self.look {
                let leader = leader(&self.client, &self.role).await?;
                self.look = false;
                let told = Told::Leads(leader.clone());
                if self.told != told {
                    self.told = told;
                    return Ok(leader);
                }
            }
            match watch.next().await {
                Some(Ok(_)) => self.look = true,
                // What was compacted is not needed: a new watch begins now.
                Some(Err(WatchError::Compacted { .. })) | None => self.watch = None,
                Some(Err(error)) => return Err(error),
            }
        }
    }
}

async fn leader(client: &Client, role: &str) -> Result<Option<Leader>, CallError> {
    match client.roles(role).await {
        Ok(roles) => Ok(roles.into_iter().find_map(leader_of)),
        // A lock that nobody uses is not there.
        Err(error) if error.refusal() == Some(Refusal::RoleNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn leader_of(role: RoleState) -> Option<Leader> {
    let mut there = role.attending.into_iter();
    let holder = there.find(|there| there.serving)?;
    Some(Leader {
        host: holder.host,
        // That of the role, whatever the verdict.
        epoch: holder.verdict.map_or(0, |verdict| verdict.epoch),
        value: holder.value,
    })
}

impl Client {
    /// Follows who holds the lock `name`, and what it stands for ([`LockOptions::value`]).
    ///
    /// [`LockOptions::value`]: crate::LockOptions::value
    pub fn observe(&self, name: &str) -> Observer {
        Observer {
            client: self.clone(),
            role: format!("locks/{name}"),
            watch: None,
            look: true,
            told: Told::Nothing,
        }
    }
}
