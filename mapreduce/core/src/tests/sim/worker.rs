//! A worker: the shell around the real gate and intake, with work that takes its time, reduces that
//! fetch part by part, and a disk that dies with it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use super::defect::Defect;
use super::plan::{FRESH, TTL};
use super::shared::{Fetch, Message, Node, Shared, Violation};
use super::store::View;
use super::work;
use crate::job::inputs_digest;
use crate::master::event::{
    Assignment, Effect, Failed, FetchFailed, Finished, Location, Outcome, Progress, Report,
    WorkerInfo,
};
use crate::names::{
    AttemptId, Epoch, HostName, Incarnation, JobId, Phase, TaskId, WorkerName, ZoneName,
};
use crate::record::{FailureClass, JobStatus, Output};
use crate::worker::{Confirmed, Deed, Intake, Taken, lease_deadline, may};

const POLL: Duration = Duration::from_millis(300);
const REPORT: Duration = Duration::from_millis(150);
const FETCH_TIMEOUT: Duration = Duration::from_millis(500);
const FETCHES_MAX: usize = 4;
/// A reduce that lacks something for so long gives up.
const FETCH_PATIENCE: Duration = Duration::from_secs(1);

/// An attempt that runs.
#[derive(Clone, Debug)]
struct Run {
    assignment: Assignment,
    /// When its own work is over; of a reduce, known when it has read everything.
    ends: Option<Duration>,
    takes: Duration,
    fate: Option<(FailureClass, Option<u64>)>,
    read: BTreeMap<u32, (u64, u64)>,
    asked: BTreeMap<u32, Duration>,
    missed: BTreeMap<u32, FetchFailed>,
    /// Since when it misses something.
    missing_since: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct WorkerNode {
    index: Node,
    slots: u32,
    pub(super) slow: u32,
    incarnation: Option<Incarnation>,
    registered_at: Option<Duration>,
    intake: Intake,
    view: Option<Rc<View>>,
    lease_until: Duration,
    fresh_until: Duration,
    sequence: u64,
    running: BTreeMap<AttemptId, Run>,
    finished: BTreeMap<AttemptId, Finished>,
    failed: BTreeMap<AttemptId, Failed>,
    outputs: BTreeMap<(JobId, u32, AttemptId), u64>,
    won: BTreeSet<(JobId, TaskId, AttemptId)>,
    locations: BTreeMap<JobId, (u64, BTreeMap<u32, Option<Location>>)>,
    poll_due: Duration,
    report_due: Duration,
}

impl WorkerNode {
    pub(super) fn new(index: Node, slots: u32) -> Self {
        Self {
            index,
            slots,
            slow: 1,
            incarnation: None,
            registered_at: None,
            intake: Intake::new(),
            view: None,
            lease_until: Duration::ZERO,
            fresh_until: Duration::ZERO,
            sequence: 0,
            running: BTreeMap::new(),
            finished: BTreeMap::new(),
            failed: BTreeMap::new(),
            outputs: BTreeMap::new(),
            won: BTreeSet::new(),
            locations: BTreeMap::new(),
            poll_due: Duration::ZERO,
            report_due: Duration::ZERO,
        }
    }

    pub(super) fn tick(&mut self, now: Duration, shared: &mut Shared) -> Result<(), Violation> {
        let Some(incarnation) = self.incarnation else {
            let waits = self.registered_at.is_some_and(|at| now < at + 2 * POLL);
            if !waits {
                self.registered_at = Some(now);
                shared.send(shared.group(), Message::Register(self.info()));
            }
            return Ok(());
        };
        if now >= self.poll_due {
            self.poll_due = now + POLL;
            let poll = Message::Poll {
                incarnation,
                sent: now,
            };
            shared.send(shared.group(), poll);
        }
        self.work(now, shared)?;
        self.publish(now, shared)?;
        if now >= self.report_due {
            self.report(now, incarnation, shared);
        }
        Ok(())
    }

    fn info(&self) -> WorkerInfo {
        let name = self.index.to_string();
        WorkerInfo {
            name: WorkerName::new(&name).expect("short"),
            incarnation: Incarnation(0),
            slots: self.slots,
            host: HostName::new(&name).expect("short"),
            zone: ZoneName::new(&(self.index % 2).to_string()).expect("short"),
        }
    }

    fn confirmed<'a>(&'a self, job: JobId, task: TaskId, status: &'a JobStatus) -> Confirmed<'a> {
        let stored = self.view.as_ref().and_then(|view| view.jobs.get(&job));
        let winner = stored.and_then(|stored| stored.state.winner(task));
        Confirmed {
            epoch: self.epoch(),
            lease_until: self.lease_until,
            fresh_until: self.fresh_until,
            job: stored.map(|_| status),
            winner: winner.map(|winner| winner.attempt),
        }
    }

    fn epoch(&self) -> Option<Epoch> {
        self.view.as_ref()?.role.map(|(_, epoch)| epoch)
    }

    fn status(&self, job: JobId) -> JobStatus {
        let stored = self.view.as_ref().and_then(|view| view.jobs.get(&job));
        stored.map_or(JobStatus::Cancelled, |stored| stored.status())
    }

    /// The real gate, asked with the real copy.
    fn may(&self, deed: Deed, job: JobId, task: TaskId, now: Duration, shared: &Shared) -> bool {
        let status = self.status(job);
        let mut confirmed = self.confirmed(job, task, &status);
        if shared.has(Defect::LeaseIgnored) {
            confirmed.lease_until = Duration::MAX;
            confirmed.fresh_until = Duration::MAX;
        }
        may(deed, &confirmed, now).is_ok()
    }

    pub(super) fn receive(
        &mut self,
        from: Node,
        now: Duration,
        message: Message,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        match message {
            Message::Registered(incarnation) if self.incarnation.is_none() => {
                self.incarnation = Some(incarnation);
            }
            Message::Polled {
                incarnation,
                sent,
                alive,
                view,
            } if self.incarnation == Some(incarnation) => self.polled(sent, alive, view),
            Message::Order { epoch, to, effect } if self.incarnation == Some(to) => {
                return self.order(now, epoch, *effect, shared);
            }
            Message::Fetch(fetch) => return self.serve(from, now, fetch, shared),
            Message::Part(fetch, part) => self.part(fetch, part),
            _ => {}
        }
        Ok(())
    }

    fn polled(&mut self, sent: Duration, alive: bool, view: Rc<View>) {
        if !alive {
            // Another life: what it did is not there for anybody any more.
            *self = Self {
                slow: self.slow,
                intake: self.intake,
                ..Self::new(self.index, self.slots)
            };
            return;
        }
        self.lease_until = self.lease_until.max(lease_deadline(sent, TTL));
        if self
            .view
            .as_ref()
            .is_none_or(|before| before.revision <= view.revision)
        {
            self.fresh_until = self.fresh_until.max(sent + FRESH);
            self.view = Some(view);
        }
        if let Some(epoch) = self.epoch() {
            self.intake.hear(epoch);
        }
    }

    fn order(
        &mut self,
        now: Duration,
        epoch: Epoch,
        effect: Effect,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        match effect {
            Effect::Assign { assignment, .. } => self.assigned(now, *assignment, shared),
            Effect::Tell {
                job,
                attempt,
                outcome,
                ..
            } if self.intake.hear(epoch) => self.told(job, attempt, outcome, shared),
            Effect::Stop { attempt, .. } if self.intake.hear(epoch) => {
                self.running.remove(&attempt);
                Ok(())
            }
            Effect::Locations {
                job,
                from,
                next,
                entries,
                ..
            } => {
                let (known, locations) = self.locations.entry(job).or_default();
                if *known == from {
                    *known = next;
                    locations.extend(entries.iter().copied());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn assigned(
        &mut self,
        now: Duration,
        assignment: Assignment,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let (id, task, epoch) = (assignment.attempt, assignment.task, assignment.epoch);
        if !self.may(Deed::Begin(epoch), assignment.job, task, now, shared) {
            return Ok(());
        }
        let again = shared.has(Defect::AttemptsTakenTwice) && !self.running.contains_key(&id);
        if self.intake.take(id, epoch) != Taken::New && !again {
            return Ok(());
        }
        shared.begins(id)?;
        let fate = shared.fate(assignment.job, task, &assignment.skip);
        let takes = Duration::from_millis(shared.rng.between(50, 600)) * self.slow;
        let run = Run {
            ends: (task.phase == Phase::Map || fate.is_some()).then_some(now + takes),
            assignment,
            takes,
            fate,
            read: BTreeMap::new(),
            asked: BTreeMap::new(),
            missed: BTreeMap::new(),
            missing_since: None,
        };
        self.running.insert(id, run);
        self.report_due = self.report_due.min(now);
        Ok(())
    }

    fn told(
        &mut self,
        job: JobId,
        attempt: AttemptId,
        outcome: Outcome,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        self.failed.remove(&attempt);
        let Some(finished) = self.finished.remove(&attempt) else {
            return Ok(());
        };
        match outcome {
            Outcome::Won | Outcome::AlreadyWon => {
                shared.hears_won(job, attempt)?;
                self.won.insert((job, finished.task, attempt));
            }
            Outcome::Lost(_) | Outcome::Fenced | Outcome::Noted => {
                shared.count("attempts that lost");
                self.outputs.remove(&(job, finished.task.index, attempt));
                if shared.has(Defect::LosersCounted) {
                    shared.losers_words += finished.counters.iter().map(|it| it.1).sum::<u64>();
                }
            }
        }
        Ok(())
    }

    /// Attempts go on, as long as they may.
    fn work(&mut self, now: Duration, shared: &mut Shared) -> Result<(), Violation> {
        let ids: Vec<_> = self.running.keys().copied().collect();
        for id in ids {
            let Some(mut run) = self.running.remove(&id) else {
                continue;
            };
            let (job, task) = (run.assignment.job, run.assignment.task);
            if task.phase == Phase::Reduce && run.ends.is_none() {
                self.fetch(now, id, &mut run, shared);
            }
            let since = *run.missing_since.get_or_insert(now);
            if run.missed.is_empty() {
                run.missing_since = None;
            } else if now >= since + FETCH_PATIENCE && run.ends.is_none() {
                run.fate = Some((FailureClass::FetchLost, None));
                run.ends = Some(now);
                shared.count("reduces that gave up fetching");
            }
            let is_over = run.ends.is_some_and(|ends| now >= ends);
            if !is_over || !self.may(Deed::GoOn, job, task, now, shared) {
                self.running.insert(id, run);
                continue;
            }
            self.report_due = now;
            match run.fate {
                Some((class, position)) => {
                    let failed = Failed {
                        job,
                        task,
                        attempt: id,
                        class,
                        message: "as planned".to_owned(),
                        position,
                    };
                    self.failed.insert(id, failed);
                }
                None => self.finish(id, &run, shared)?,
            }
        }
        Ok(())
    }

    fn finish(&mut self, id: AttemptId, run: &Run, shared: &mut Shared) -> Result<(), Violation> {
        let (job, task) = (run.assignment.job, run.assignment.task);
        let index = shared.jobs[&job];
        let plan = &shared.plan.jobs[index];
        let result = match task.phase {
            Phase::Map => work::map(index as u64, plan, task.index, work::salt(plan, id)),
            Phase::Reduce => work::reduce(run.read.values().map(|(_, part)| *part)),
        };
        let inputs = if shared.has(Defect::InputsAssumed) {
            let locations = self.locations.get(&job).into_iter().flat_map(|(_, it)| it);
            inputs_digest(locations.filter_map(|(map, it)| Some((*map, it.as_ref()?.content))))
        } else {
            inputs_digest(run.read.iter().map(|(map, (content, _))| (*map, *content)))
        };
        let is_last = run.assignment.reduces == 0 || task.phase == Phase::Reduce;
        if is_last {
            shared.writes(job, task, id, result.content);
        } else {
            self.outputs.insert((job, task.index, id), result.content);
        }
        let output = Output {
            name: String::new(),
            length: 8,
            checksum: result.content,
        };
        let counters = Some(("words".to_owned(), result.words));
        let finished = Finished {
            job,
            task,
            attempt: id,
            outputs: vec![output],
            content: result.content,
            inputs: if task.phase == Phase::Reduce {
                inputs
            } else {
                0
            },
            builtin: result.builtin,
            counters: counters
                .filter(|(_, words)| *words > 0)
                .into_iter()
                .collect(),
        };
        self.finished.insert(id, finished);
        if is_last && shared.has(Defect::PublishedBeforeRecorded) {
            shared.publish(job, task, id)?;
        }
        Ok(())
    }

    /// A reduce asks for what it lacks and knows where to find.
    fn fetch(&mut self, now: Duration, id: AttemptId, run: &mut Run, shared: &mut Shared) {
        let (job, maps) = (run.assignment.job, run.assignment.maps);
        if run.read.len() == maps as usize {
            run.ends = Some(now + run.takes);
            return;
        }
        let Some((_, locations)) = self.locations.get(&job) else {
            return;
        };
        for (map, location) in locations {
            let (map, Some(location)) = (*map, location) else {
                continue;
            };
            let open = run
                .asked
                .values()
                .filter(|asked| now < **asked + FETCH_TIMEOUT)
                .count();
            if run.read.contains_key(&map) || open >= FETCHES_MAX {
                continue;
            }
            match run.asked.get(&map) {
                Some(asked) if now < *asked + FETCH_TIMEOUT => continue,
                Some(_) => {
                    let missed = missed(job, id, map, location, false);
                    run.missed.insert(map, missed);
                }
                None => {}
            }
            run.asked.insert(map, now);
            let fetch = Fetch {
                job,
                map,
                attempt: location.attempt,
                holder: location.incarnation,
                reduce: run.assignment.task.index,
                reader: id,
            };
            let members = self.view.iter().flat_map(|view| &view.workers);
            let mut holder = members.filter(|info| info.incarnation == location.incarnation);
            if let Some(info) = holder.next() {
                let node = info.name.as_str().parse().expect("called by its number");
                shared.send(node, Message::Fetch(fetch));
            }
        }
    }

    fn serve(
        &self,
        from: Node,
        now: Duration,
        fetch: Fetch,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let task = TaskId::map(fetch.map);
        let is_me = self.incarnation == Some(fetch.holder);
        let file = self.outputs.get(&(fetch.job, fetch.map, fetch.attempt));
        let may_serve = self.may(Deed::Serve(fetch.attempt), fetch.job, task, now, shared);
        let part = match file {
            Some(content) if is_me && may_serve => {
                shared.serves(&fetch)?;
                Some((*content, work::part(*content, fetch.reduce)))
            }
            _ => None,
        };
        shared.send(from, Message::Part(fetch, part));
        Ok(())
    }

    fn part(&mut self, fetch: Fetch, part: Option<(u64, u64)>) {
        let Some(run) = self.running.get_mut(&fetch.reader) else {
            return;
        };
        // A refusal is like no answer: it is asked again when the time is over.
        if let Some(part) = part {
            run.read.entry(fetch.map).or_insert(part);
            run.asked.remove(&fetch.map);
            run.missed.remove(&fetch.map);
        }
    }

    /// Winners of the last phase become the job's output, when the copy of the group says so.
    fn publish(&mut self, now: Duration, shared: &mut Shared) -> Result<(), Violation> {
        let won: Vec<_> = self.won.iter().copied().collect();
        for (job, task, attempt) in won {
            let plan = &shared.plan.jobs[shared.jobs[&job]];
            let is_last = plan.reduces == 0 || task.phase == Phase::Reduce;
            if !is_last || self.may(Deed::Publish(attempt), job, task, now, shared) {
                self.won.remove(&(job, task, attempt));
                if is_last {
                    shared.publish(job, task, attempt)?;
                }
            }
        }
        Ok(())
    }

    fn report(&mut self, now: Duration, incarnation: Incarnation, shared: &mut Shared) {
        self.report_due = now + REPORT;
        let Some((holder, _)) = self.view.as_ref().and_then(|view| view.role) else {
            return;
        };
        self.sequence += 1;
        let running = self.running.iter().map(|(id, run)| Progress {
            job: run.assignment.job,
            task: run.assignment.task,
            attempt: *id,
            bytes: 0,
            records: run.read.len() as u64,
        });
        let missed = self
            .running
            .values()
            .flat_map(|run| run.missed.values().cloned());
        let mut known = BTreeMap::new();
        for run in self.running.values() {
            let job = run.assignment.job;
            let at = self.locations.get(&job).map_or(0, |(known, _)| *known);
            known.insert(job, at);
        }
        let report = Report {
            incarnation,
            sequence: self.sequence,
            epoch: self.intake.epoch(),
            accepted: self.intake.accepted(),
            running: running.collect(),
            finished: self.finished.values().cloned().collect(),
            failed: self.failed.values().cloned().collect(),
            fetch_failed: missed.collect(),
            known: known.into_iter().collect(),
        };
        shared.send(holder, Message::Report(Box::new(report)));
    }
}

fn missed(
    job: JobId,
    reader: AttemptId,
    map: u32,
    location: &Location,
    damaged: bool,
) -> FetchFailed {
    FetchFailed {
        job,
        reader,
        map,
        attempt: location.attempt,
        holder: location.incarnation,
        damaged,
    }
}
