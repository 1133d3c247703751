//! What a job has to write, in batches with consecutive numbers, one under way at a time.
//!
//! A batch whose outcome is not known is sent again with the same number and bytes: the number is
//! free, or it has just this batch. So a record is in the log once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::job::change;
use super::settings::Settings;
use crate::job::JobState;
use crate::limits::VALUE_BYTES_MAX;
use crate::names::{AttemptId, Epoch, TaskId};
use crate::record::{Batch, Header, Record};

/// A batch that is on its way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) sequence: u64,
    pub(super) batch: Batch,
    pub(super) header: Option<Header>,
    /// Changes of winners with this batch.
    changes: usize,
    /// When it was sent last; none when its outcome is not known and it is to be sent again.
    pub(super) again: Option<Duration>,
}

/// Records of a job on their way into the log.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    epoch: Epoch,
    /// Number of the last batch that is in the log.
    sequence: u64,
    pending: Vec<Record>,
    pending_bytes: usize,
    since: Duration,
    urgent: bool,
    flight: Option<Flight>,
    unconfirmed: BTreeMap<TaskId, AttemptId>,
    /// Changes of winners that are in the log.
    changes: usize,
    /// Batches and bytes written, for people.
    pub(super) written: (u64, u64),
}

impl Writer {
    pub(super) fn new(epoch: Epoch, state: &JobState) -> Self {
        Self {
            epoch,
            sequence: state.sequence(),
            pending: Vec::new(),
            pending_bytes: 0,
            since: Duration::ZERO,
            urgent: false,
            flight: None,
            unconfirmed: BTreeMap::new(),
            changes: state.changes().len(),
            written: (0, 0),
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn push(&mut self, record: Record, now: Duration) {
        if self.pending.is_empty() {
            self.since = now;
        }
        if let Record::Won(won) = &record {
            self.unconfirmed.insert(won.task, won.attempt);
        }
        self.pending_bytes += record.encoded_len();
        self.pending.push(record);
    }

    /// What is pending waits for nothing else.
    pub(super) fn hurry(&mut self) {
        self.urgent = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.flight.is_none()
    }

    pub(super) fn is_unconfirmed(&self, task: TaskId, attempt: AttemptId) -> bool {
        self.unconfirmed.get(&task) == Some(&attempt)
    }

    /// Changes of winners that are in the log.
    pub(super) fn changes(&self) -> usize {
        self.changes
    }

    pub(super) fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref()
    }

    /// The outcome of this batch is not known; it goes again at `again`.
    pub(super) fn unknown(&mut self, sequence: u64, again: Duration) {
        if let Some(flight) = self.flight.as_mut().filter(|it| it.sequence == sequence) {
            flight.again = Some(again);
        }
    }

    /// A mistake, see [`super::Defect`]: what is on its way goes again under the next number.
    pub(super) fn renumber(&mut self, sequence: u64) {
        if let Some(flight) = self.flight.as_mut().filter(|it| it.sequence == sequence) {
            flight.sequence += 1;
        }
    }

    /// This batch is in the log.
    pub(super) fn appended(&mut self, sequence: u64) -> Option<Flight> {
        let flight = self.flight.take_if(|flight| flight.sequence == sequence)?;
        self.sequence = sequence;
        self.changes = flight.changes;
        for record in &flight.batch.records {
            if let Record::Won(won) = record
                && self.is_unconfirmed(won.task, won.attempt)
            {
                self.unconfirmed.remove(&won.task);
            }
        }
        Some(flight)
    }

    /// The batch to send now, if one is due: again, or the next one.
    pub(super) fn due(
        &mut self,
        state: &JobState,
        header: Option<&Header>,
        running: u32,
        now: Duration,
        settings: &Settings,
    ) -> Option<&Flight> {
        if let Some(flight) = &mut self.flight {
            flight.again.take_if(|again| *again <= now)?;
            return self.flight.as_ref();
        }
        let linger = settings
            .linger_per_attempt
            .saturating_mul(running)
            .min(settings.linger_max);
        let is_full = self.pending.len() >= settings.batch_records_max
            || self.pending_bytes > VALUE_BYTES_MAX / 2;
        let waited = now.saturating_sub(self.since) >= linger;
        if self.pending.is_empty() || !(self.urgent || is_full || waited) {
            return None;
        }
        let sequence = self.sequence.checked_add(1)?;
        self.flight = Some(self.next(sequence, state, header, settings, now));
        self.flight.as_ref()
    }

    fn next(
        &mut self,
        sequence: u64,
        state: &JobState,
        header: Option<&Header>,
        settings: &Settings,
        now: Duration,
    ) -> Flight {
        let mut bytes = 0;
        let fits = self
            .pending
            .iter()
            .take(settings.batch_records_max)
            .take_while(|record| {
                bytes += record.encoded_len();
                bytes <= VALUE_BYTES_MAX - 64
            });
        // The longest record is far below the limit, so there is one.
        let count = fits.count().max(1);
        let records: Vec<_> = self.pending.drain(..count).collect();
        let taken = records.iter().map(Record::encoded_len).sum::<usize>();
        self.pending_bytes -= taken;
        let left = self.pending.iter().filter_map(change).count();
        let is_last = self.pending.is_empty();
        if is_last {
            self.urgent = false;
        }
        self.since = now;
        self.written.0 += 1;
        self.written.1 += taken as u64;
        let epoch = self.epoch;
        Flight {
            sequence,
            batch: Batch { epoch, records },
            header: header.filter(|_| is_last).cloned(),
            changes: state.changes().len() - left,
            again: None,
        }
    }
}
