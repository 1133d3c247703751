//! Request ids of a session: which number a request gets and how far the group may forget answers.
//! Pure; the session's shell (`session`) guards it with a mutex.
//!
//! The group keeps the answer of every request above the *ack* so that a retry gets it again. A
//! request is *open* from the moment it has a number until its caller has an answer, or has given
//! up: then nobody will send it again, and should a copy still be on its way, the group refuses it
//! once the ack has passed, instead of executing it behind everybody's back.
//!
//! Invariants
//! - every number is used once, from 1 on, without gaps;
//! - the ack never passes an open request and never goes back;
//! - at most `WINDOW` requests lie above the ack.

use std::collections::BTreeSet;

/// Most requests above the ack: half of the 1024 answers that the group keeps for a session, so
/// that an ack that travels slower than the requests never meets that limit.
pub(crate) const WINDOW: u64 = 512;

/// The metadata of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// Lease id of the session.
    pub session: i64,
    /// Number of the request.
    pub seq: u64,
    /// All requests up to this number are closed.
    pub ack: u64,
}

/// The numbers of one session.
#[derive(Debug)]
pub struct RequestIds {
    session: i64,
    /// Highest number that was given out.
    last: u64,
    open: BTreeSet<u64>,
}

impl RequestIds {
    /// For a session that has sent nothing yet.
    pub fn new(session: i64) -> Self {
        Self {
            session,
            last: 0,
            open: BTreeSet::new(),
        }
    }

    /// The number for a new request; `None` while the window is full.
    pub fn open(&mut self) -> Option<u64> {
        if self.last - self.ack() >= WINDOW {
            return None;
        }
        self.last += 1;
        let fresh = self.open.insert(self.last);
        assert!(fresh, "number {} was given out twice", self.last);
        self.check();
        Some(self.last)
    }

    /// Request `seq` has its answer, or nobody waits for one any more.
    pub fn close(&mut self, seq: u64) {
        let was_open = self.open.remove(&seq);
        assert!(
            was_open,
            "request {seq} of session {:x} is not open",
            self.session
        );
        self.check();
    }

    /// What an attempt of the open request `seq` carries now.
    pub fn id(&self, seq: u64) -> RequestId {
        assert!(self.open.contains(&seq), "request {seq} is not open");
        RequestId {
            session: self.session,
            seq,
            ack: self.ack(),
        }
    }

    /// All requests up to this number are closed.
    pub fn ack(&self) -> u64 {
        self.open.first().map_or(self.last, |oldest| oldest - 1)
    }

    fn check(&self) {
        assert!(self.ack() <= self.last);
        assert!(self.last - self.ack() <= WINDOW);
        assert!(self.open.last().is_none_or(|newest| *newest <= self.last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Action {
        Open,
        Retry(prop::sample::Index),
        Close(prop::sample::Index),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let one = prop_oneof![
            3 => Just(Action::Open),
            1 => any::<prop::sample::Index>().prop_map(Action::Retry),
            2 => any::<prop::sample::Index>().prop_map(Action::Close),
        ];
        prop::collection::vec(one, 1..400)
    }

    proptest! {
        #[test]
        fn the_ack_never_passes_an_unanswered_request_and_never_goes_back(list in actions()) {
            let mut ids = RequestIds::new(7);
            let mut open: Vec<u64> = Vec::new();
            let mut given = 0;
            let mut ack_before = 0;
            for action in list {
                match action {
                    Action::Open => {
                        if let Some(seq) = ids.open() {
                            prop_assert_eq!(seq, given + 1);
                            given = seq;
                            open.push(seq);
                        }
                    }
                    Action::Retry(index) if !open.is_empty() => {
                        let seq = open[index.index(open.len())];
                        let id = ids.id(seq);
                        prop_assert_eq!(id.seq, seq);
                        prop_assert!(id.ack < seq);
                    }
                    Action::Close(index) if !open.is_empty() => {
                        ids.close(open.swap_remove(index.index(open.len())));
                    }
                    Action::Retry(_) | Action::Close(_) => {}
                }
                prop_assert!(open.iter().all(|seq| ids.ack() < *seq));
                prop_assert!(ids.ack() >= ack_before);
                if open.is_empty() {
                    prop_assert_eq!(ids.ack(), given);
                }
                ack_before = ids.ack();
            }
        }
    }

    #[test]
    fn one_stuck_request_stops_new_ones_at_the_window() {
        let mut ids = RequestIds::new(7);
        let stuck = ids.open().expect("the window is empty");
        for _ in 1..WINDOW {
            let seq = ids.open().expect("the window has room");
            ids.close(seq);
        }
        assert_eq!(ids.open(), None);
        ids.close(stuck);
        assert_eq!(ids.open(), Some(WINDOW + 1));
    }
}
