//! Steps that are jobs of a group, run by its workers.
//!
//! The number of a step is the key of its job, and is in the step's record before the job is
//! submitted. So whoever runs the chain again knows under which key to look; and where there is no
//! job, it withdraws the key first, after which a submission that was under way when its command
//! was killed comes to nothing ([`submit::withdraw`]).

use super::Step;
use super::run::{Begun, Earlier, Engine, Unfinished};
use crate::cluster::bars::Steps;
use crate::cluster::follow::{self, Ended};
use crate::cluster::live::Asking;
use crate::cluster::show;
use crate::cluster::submit::{self, Submission, SubmitError};
use crate::cluster::view::{State, View};
use crate::engine::local::Options;
use crate::{Result, store};
use cfgsvc_client::Client;
use mapreduce_core::record::JobStatus;
use mapreduce_core::spec::JobOptions;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Steps whose jobs run at once; each is followed by a thread, and by a watch of the group.
const STEPS_MAX: usize = 64;
/// Tasks that a master is asked for.
const TASKS: usize = 1_000;

/// A group.
pub(super) struct Group<'a> {
    pub(super) client: &'a Client,
    pub(super) runtime: Handle,
    /// What tasks find in the directory in which they run.
    pub(super) files: &'a [PathBuf],
    /// How jobs run.
    pub(super) how: JobOptions,
    pub(super) split_octets: Option<u64>,
    /// True when the person has left.
    pub(super) left: watch::Receiver<bool>,
    pub(super) display: Steps,
}

/// A job that is done.
pub(crate) struct Followed {
    pub(crate) view: View,
    pub(crate) took: Duration,
}

impl Engine for Group<'_> {
    type Report = Followed;
    /// The key of the job.
    type Joined = String;
    const SUBMITS: bool = true;

    fn check(&self, output: &Path) -> Result<()> {
        if !store::is_in_bucket(&store::place(output)?) {
            return Ok(());
        }
        let output = output.display();
        Err(format!(
            "output {output}: that of a step is a directory, of which later steps read the \
             manifest; submit the last job by itself if its output is to be in a bucket"
        )
        .into())
    }

    fn shares(&self) -> usize {
        STEPS_MAX
    }

    fn share(&self, _free: usize, _ready: usize) -> usize {
        1
    }

    fn is_interrupted(&self) -> bool {
        *self.left.borrow()
    }

    fn draw(&self) -> String {
        submit::new_key()
    }

    fn done_before(&self, step: &Step) {
        self.display
            .say(&format!("step {}: done before", step.name));
    }

    fn earlier(&self, earlier: &Earlier<'_>) -> Result<Option<String>, Unfinished> {
        self.runtime.block_on(self.find(earlier))
    }

    fn rejoin(&self, step: &Step, key: String) -> Result<Followed, Unfinished> {
        self.display
            .say(&format!("step {}: job {key} goes on", step.name));
        self.runtime.block_on(self.follow(step, &key))
    }

    fn run(&self, begun: Begun<'_>) -> Result<Followed, Unfinished> {
        self.runtime.block_on(self.submit(begun))
    }
}

impl Group<'_> {
    /// Returns when the person has left.
    async fn leaving(&self) {
        let mut left = self.left.clone();
        if left.wait_for(|left| *left).await.is_err() {
            // Nobody is there who could say it.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the group answers.
    async fn reached(&self, key: &str) -> Result<()> {
        tokio::select! {
            () = submit::reached(self.client) => Ok(()),
            () = self.leaving() => {
                Err(format!("left before the group answered about {key}").into())
            }
        }
    }

    async fn submit(&self, begun: Begun<'_>) -> Result<Followed, Unfinished> {
        let (step, key) = (begun.step, begun.id);
        let options = Options {
            overwrite: begun.overwrite,
            reduces: step.spec.reduces,
            split_octets: self.split_octets,
            ..Options::new(begun.inputs, begun.output)
        };
        let what = Submission {
            name: &step.spec.job,
            arguments: step.spec.arguments.clone(),
            code: &*step.code,
            options: &options,
            files: self.files,
            how: JobOptions {
                format: step.spec.format,
                ..self.how.clone()
            },
        };
        let reached = self.reached(key).await;
        reached.map_err(Unfinished::Failed)?;
        // A submission comes to its end; then whoever looks on may leave.
        let uninterrupted = std::future::pending();
        match submit::submit(self.client, key, &what, uninterrupted).await {
            Ok(()) => {}
            Err(SubmitError::Refused(error)) => return Err(Unfinished::Failed(error)),
            Err(error @ SubmitError::Unknown { .. }) => {
                self.display.say(&format!("step {}: {error}", step.name));
                let reached = self.reached(key).await;
                reached.map_err(Unfinished::Unknown)?;
                let withdrawn = submit::withdraw(self.client, key, &options.output).await;
                if withdrawn.map_err(Unfinished::Unknown)? {
                    return Err(Unfinished::Failed(error.into()));
                }
            }
        }
        self.display.say(&format!("step {}: job {key}", step.name));
        self.follow(step, key).await
    }

    /// Follows a job until it is settled.
    async fn follow(&self, step: &Step, key: &str) -> Result<Followed, Unfinished> {
        let began = Instant::now();
        let mut display = self.display.of(&step.name);
        let ended = follow::follow_until(self.client, key, &mut display, self.leaving()).await;
        let Ended::Over(view, live) = ended.map_err(Unfinished::Unknown)? else {
            return Err(Unfinished::Left);
        };
        match view.state {
            State::Done if view.is_discarded() => {
                Err(Unfinished::Failed(show::refusal(&view).into()))
            }
            State::Done => {
                let (view, took) = (*view, began.elapsed());
                self.display
                    .say(&format!("step {}: job {key} is done", step.name));
                Ok(Followed { view, took })
            }
            State::Failed | State::Cancelled => {
                // Where the last attempt failed, the master was told after it was asked.
                let mut asking = Asking::new(self.client);
                let live = asking.ask(Some(view.id), TASKS).await.ok().or(live);
                let view = show::placed(*view, live.as_ref());
                Err(Unfinished::Failed(show::refusal(&view).into()))
            }
            State::Damaged | State::Running | State::Publishing => {
                let refusal = show::refusal(&view);
                let hint = format!("hint: `mapreduce cancel {key}` ends it");
                Err(Unfinished::Unknown(format!("{refusal}\n\n{hint}").into()))
            }
        }
    }

    /// Finds out what became of a job that an earlier command has submitted, or was about to.
    async fn find(&self, earlier: &Earlier<'_>) -> Result<Option<String>, Unfinished> {
        let (client, key) = (self.client, earlier.record.id.as_str());
        loop {
            let reached = self.reached(key).await;
            reached.map_err(Unfinished::Unknown)?;
            let standing = submit::standing(client, key).await;
            match next(standing.map_err(Unfinished::Unknown)?, earlier.is_wanted) {
                Next::Nothing => return Ok(None),
                Next::Rejoin => return Ok(Some(key.to_owned())),
                Next::Withdraw => {
                    let withdrawn = submit::withdraw(client, key, &earlier.output).await;
                    if withdrawn.map_err(Unfinished::Unknown)? {
                        return Ok(None);
                    }
                }
                Next::Cancel => {
                    let name = earlier.name;
                    let why = "the step, or what it reads, is another now";
                    self.display
                        .say(&format!("step {name}: cancels job {key}: {why}"));
                    // One that has ended meanwhile is no failure; it is looked at again.
                    let cancelled = submit::cancel(client, key).await;
                    let standing = submit::standing(client, key).await;
                    let standing = standing.map_err(Unfinished::Unknown)?;
                    if matches!(standing, Some((JobStatus::Running, _))) {
                        cancelled.map_err(Unfinished::Unknown)?;
                    }
                }
                Next::Wait => {
                    let mut display = self.display.of(earlier.name);
                    let over = follow::follow_until(client, key, &mut display, self.leaving());
                    if let Ended::Left = over.await.map_err(Unfinished::Unknown)? {
                        return Err(Unfinished::Left);
                    }
                }
            }
        }
    }
}

/// What is done about a job of an earlier command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is over.
    Nothing,
    /// It is the step's: it is followed.
    Rejoin,
    /// There is none, and it is made sure that there will be none.
    Withdraw,
    /// Nobody wants it.
    Cancel,
    /// Nobody wants it, and its output is being published.
    Wait,
}

/// Decides by what the group has of it: its status, and whether it is settled.
fn next(standing: Option<(JobStatus, bool)>, is_wanted: bool) -> Next {
    let Some((status, is_settled)) = standing else {
        return Next::Withdraw;
    };
    match (status, is_settled) {
        // Of one that is done the output was there, and is gone: it is run again.
        (JobStatus::Done, true) | (JobStatus::Failed(_) | JobStatus::Cancelled, _) => Next::Nothing,
        (JobStatus::Running, _) | (JobStatus::Done, false) if is_wanted => Next::Rejoin,
        (JobStatus::Running, _) => Next::Cancel,
        (JobStatus::Done, false) => Next::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mapreduce_core::record::{JobFailure, JobFailureKind};

    #[test]
    fn a_key_is_given_up_only_when_nothing_goes_on_under_it() {
        let failed = JobStatus::Failed(JobFailure {
            kind: JobFailureKind::AttemptsExhausted,
            task: None,
            message: String::new(),
        });
        for (standing, wanted, unwanted) in [
            (None, Next::Withdraw, Next::Withdraw),
            (
                Some((JobStatus::Running, false)),
                Next::Rejoin,
                Next::Cancel,
            ),
            (Some((JobStatus::Done, false)), Next::Rejoin, Next::Wait),
            (Some((JobStatus::Done, true)), Next::Nothing, Next::Nothing),
            (Some((failed.clone(), false)), Next::Nothing, Next::Nothing),
            (Some((failed, true)), Next::Nothing, Next::Nothing),
            (
                Some((JobStatus::Cancelled, false)),
                Next::Nothing,
                Next::Nothing,
            ),
        ] {
            assert_eq!(next(standing.clone(), true), wanted, "{standing:?}");
            assert_eq!(next(standing.clone(), false), unwanted, "{standing:?}");
        }
    }
}
