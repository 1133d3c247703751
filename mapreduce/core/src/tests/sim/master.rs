//! A process that stands for master: the shell around the real master, in the simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::shared::{Message, Node, Shared, Violation};
use super::store::View;
use crate::master::Master;
use crate::master::event::{Effect, Event, Refusal};
use crate::names::{Epoch, Incarnation, JobId, TaskId};
use crate::record::JobStatus;

const RENEW: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(200);
const APPEND_TIMEOUT: Duration = Duration::from_millis(700);

#[derive(Debug, Default)]
pub(super) struct MasterNode {
    index: Node,
    master: Option<Master>,
    /// The last epoch that it was master in: one grant makes one master, also when the answer comes
    /// twice.
    used: Epoch,
    /// It goes on when its renewals are refused, until an append is, or faults end.
    stubborn: bool,
    revision: u64,
    /// It hears of jobs first; of who is there when it has read them all.
    loaded: Duration,
    members: BTreeMap<Incarnation, Node>,
    jobs: BTreeSet<JobId>,
    appends: BTreeMap<(JobId, u64), Duration>,
    renew_due: Duration,
    look_due: Duration,
}

impl MasterNode {
    pub(super) fn new(index: Node) -> Self {
        Self {
            index,
            ..Self::default()
        }
    }

    pub(super) fn tick(&mut self, now: Duration, shared: &mut Shared) -> Result<(), Violation> {
        let holds = self.master.as_ref().map(Master::epoch);
        if now >= self.renew_due {
            self.renew_due = now + RENEW;
            shared.send(shared.group(), Message::Campaign(holds));
        }
        if holds.is_none() {
            return Ok(());
        }
        if now >= self.look_due {
            self.look_due = now + LOOK;
            shared.send(shared.group(), Message::Look);
        }
        let late = self
            .appends
            .iter()
            .filter(|(_, sent)| now >= **sent + APPEND_TIMEOUT);
        for (job, sequence) in late.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.appends.remove(&(job, sequence));
            shared.count("appends unknown");
            self.step(now, Event::Unknown { job, sequence }, shared)?;
        }
        self.step(now, Event::Time, shared)
    }

    pub(super) fn receive(
        &mut self,
        now: Duration,
        message: Message,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        match message {
            Message::Role { granted, view } => self.role(now, granted, &view, shared),
            Message::View(view) if self.master.is_some() => self.view(now, &view, shared),
            Message::Appended {
                job,
                sequence,
                result,
            } => {
                self.appends.remove(&(job, sequence));
                let event = match result {
                    Ok(()) => Event::Appended { job, sequence },
                    Err(why) => Event::Refused { job, sequence, why },
                };
                self.step(now, event, shared)
            }
            Message::Report(report) => self.step(now, Event::Report(report), shared),
            _ => Ok(()),
        }
    }

    fn role(
        &mut self,
        now: Duration,
        granted: bool,
        view: &View,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let goes_on = self.stubborn && shared.now < shared.plan.faults_end;
        match (&self.master, view.role) {
            (None, Some((holder, epoch)))
                if granted && holder == self.index && epoch > self.used =>
            {
                self.used = epoch;
                let settings = shared.plan.settings.clone();
                let defect = shared.defect.and_then(super::defect::Defect::of_master);
                self.master = Some(Master::new(epoch, settings, now).with_defect(defect));
                self.stubborn = shared.rng.chance(500);
                // There may be many.
                let most = if shared.rng.chance(250) { 3_000 } else { 50 };
                let load_ms = shared.rng.between(0, most);
                self.loaded = now + Duration::from_millis(load_ms);
                shared.count("masters");
                self.view(now, view, shared)
            }
            (Some(_), _) if !(granted || goes_on) => {
                self.give_up();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn give_up(&mut self) {
        *self = Self {
            used: self.used,
            ..Self::new(self.index)
        };
    }

    /// What the group has: changes since it was last looked at.
    fn view(&mut self, now: Duration, view: &View, shared: &mut Shared) -> Result<(), Violation> {
        if view.revision < self.revision {
            return Ok(());
        }
        self.revision = view.revision;
        self.changes(now, view, shared)?;
        if self.master.is_none() {
            // It stepped down on the way.
            self.give_up();
        }
        Ok(())
    }

    fn changes(
        &mut self,
        now: Duration,
        view: &View,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        for (job, stored) in &view.jobs {
            if self.jobs.insert(*job) {
                let image = stored.image(*job);
                self.step(now, Event::Job(Box::new(image)), shared)?;
            } else if stored.status() == JobStatus::Cancelled {
                self.step(now, Event::Cancelled(*job), shared)?;
            }
        }
        if now < self.loaded {
            return Ok(());
        }
        let workers = view.workers.iter().map(|info| info.incarnation);
        let members: BTreeSet<_> = workers.collect();
        let gone = self
            .members
            .keys()
            .filter(|member| !members.contains(member));
        for incarnation in gone.copied().collect::<Vec<_>>() {
            self.members.remove(&incarnation);
            self.step(now, Event::Gone(incarnation), shared)?;
        }
        for info in &view.workers {
            let node = info
                .name
                .as_str()
                .parse()
                .expect("workers are called by their number");
            if self.members.insert(info.incarnation, node).is_none() {
                self.step(now, Event::Joined(info.clone()), shared)?;
            }
        }
        self.step(now, Event::Confirmed, shared)
    }

    fn step(&mut self, now: Duration, event: Event, shared: &mut Shared) -> Result<(), Violation> {
        let Some(master) = &mut self.master else {
            return Ok(());
        };
        let deposed = matches!(
            &event,
            Event::Refused {
                why: Refusal::Epoch,
                ..
            }
        );
        let effects = master.step(now, event);
        master.check();
        let epoch = master.epoch();
        let stepped_down = master.has_stepped_down();
        for effect in effects {
            if let Some(trace) = &mut shared.trace {
                trace.push(format!(
                    "{:?} m{} {epoch} {effect:?}",
                    shared.now, self.index
                ));
            }
            match effect {
                Effect::Append {
                    job,
                    sequence,
                    batch,
                    header,
                } => {
                    self.appends.insert((job, sequence), now);
                    let append = Message::Append {
                        job,
                        sequence,
                        bytes: batch.encode().into(),
                        header: header.map(|header| header.encode()),
                    };
                    shared.send(shared.group(), append);
                }
                Effect::Assign { to, assignment } => {
                    let (job, task) = (assignment.job, assignment.task);
                    shared.assigns(epoch, job, task, assignment.attempt)?;
                    let effect = Effect::Assign { to, assignment };
                    self.order(epoch, to, effect, shared);
                }
                Effect::Tell { to, .. }
                | Effect::Stop { to, .. }
                | Effect::Locations { to, .. } => self.order(epoch, to, effect, shared),
                Effect::JobEnded { job, status } => ended(job, &status, shared)?,
                Effect::Rejected { .. } => shared.count("reports rejected"),
                Effect::Unreadable { job, message } => {
                    return Err(format!("{job} is not read: {message}"));
                }
                Effect::SteppedDown { why } => {
                    let by_log = why.contains("does not fit");
                    if by_log && !deposed {
                        return Err(format!("a master stepped down: {why}"));
                    }
                    shared.count("masters stepped down");
                }
            }
        }
        if stepped_down {
            self.give_up();
        }
        Ok(())
    }

    fn order(&self, epoch: Epoch, to: Incarnation, effect: Effect, shared: &mut Shared) {
        if let Some(node) = self.members.get(&to) {
            let effect = Box::new(effect);
            shared.send(*node, Message::Order { epoch, to, effect });
        }
    }
}

/// What the shell does for a job that is done, as often as it is told.
fn ended(job: JobId, status: &JobStatus, shared: &mut Shared) -> Result<(), Violation> {
    if *status != JobStatus::Done {
        return Ok(());
    }
    let state = shared.store.jobs[&job].state.clone();
    if *state.status() != JobStatus::Done {
        return Err(format!(
            "{job} is said to be done, and the group has {:?}",
            state.status()
        ));
    }
    let phase = state.last_phase();
    for task in (0..state.count(phase)).map(|index| TaskId { phase, index }) {
        let winner = state.winner(task).expect("a job that is done has winners");
        shared.publish(job, task, winner.attempt)?;
    }
    Ok(())
}
