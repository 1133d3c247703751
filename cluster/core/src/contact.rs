//! Which members hold a connection to this one, and whether the leader's is gone.
//!
//! Why: a leader whose process died is known at once by its closed connections; its silence is
//! known only after an election timeout. A closed connection is evidence and not proof, so a member
//! that has it asks the others whether they have it too, before it stands for election.
//!
//! Invariants
//! - a member is lost only if it was here: one that never connected proves nothing;
//! - only open connections count: a call may be looked at after its connection has closed.

use std::collections::{BTreeMap, BTreeSet};

/// Connections of other members to this one.
#[derive(Debug, Default)]
pub struct Contacts {
    /// Open connections, and who calls over them, known from the first call.
    callers: BTreeMap<u64, Option<u64>>,
    /// Members that have called since this one started.
    seen: BTreeSet<u64>,
}

impl Contacts {
    /// A connection was made.
    pub fn opened(&mut self, connection: u64) {
        self.callers.insert(connection, None);
    }

    /// A call of `member` arrived over `connection`.
    pub fn called(&mut self, connection: u64, member: u64) {
        if let Some(caller) = self.callers.get_mut(&connection) {
            *caller = Some(member);
            self.seen.insert(member);
        }
    }

    /// A connection ended; returns whose last one it was.
    pub fn closed(&mut self, connection: u64) -> Option<u64> {
        let member = self.callers.remove(&connection)??;
        self.lost(member).then_some(member)
    }

    /// Whether `member` was connected and is not any more.
    pub fn lost(&self, member: u64) -> bool {
        self.seen.contains(&member) && !self.callers.values().any(|caller| *caller == Some(member))
    }
}

/// Whether a member agrees that the leader is lost, so that `asking` may stand for election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Term of the leader that is said to be lost.
    pub term: u64,
    /// The leader.
    pub leader: u64,
    /// (term, index) of the last entry of the member that asks.
    pub asking: (u64, u64),
}

impl Question {
    /// Answers it from what this member knows: its term, the leader it follows, its own last entry.
    pub fn agreed(
        self,
        contacts: &Contacts,
        term: u64,
        follows: Option<u64>,
        last: (u64, u64),
    ) -> bool {
        let without_leader =
            follows.is_none() || (follows == Some(self.leader) && contacts.lost(self.leader));
        self.term == term && without_leader && self.asking >= last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: Question = Question {
        term: 5,
        leader: 1,
        asking: (5, 10),
    };

    fn connected(connections: &[u64]) -> Contacts {
        let mut contacts = Contacts::default();
        for connection in connections {
            contacts.opened(*connection);
        }
        contacts
    }

    #[test]
    fn call_that_is_looked_at_after_its_connection_closed_does_not_count() {
        let mut contacts = connected(&[7, 8]);
        contacts.called(7, 1);
        assert_eq!(contacts.closed(7), Some(1));
        assert_eq!(contacts.closed(8), None);
        contacts.called(8, 1);
        assert!(contacts.lost(1));
    }

    #[test]
    fn member_is_lost_with_its_last_connection() {
        let mut contacts = connected(&[3, 7, 8, 9]);
        assert!(!contacts.lost(1), "it never was here");
        contacts.called(7, 1);
        contacts.called(8, 1);
        assert_eq!(contacts.closed(7), None);
        assert_eq!(contacts.closed(8), Some(1));
        assert!(contacts.lost(1));
        contacts.called(9, 1);
        assert!(!contacts.lost(1));
        assert_eq!(contacts.closed(3), None, "nobody ever called over it");
    }

    #[test]
    fn healthy_leader_is_not_given_up_by_one_closed_connection() {
        let mut contacts = connected(&[7]);
        contacts.called(7, 1);
        assert!(!QUESTION.agreed(&contacts, 5, Some(1), (5, 10)));
        contacts.closed(7);
        assert!(QUESTION.agreed(&contacts, 5, Some(1), (5, 10)));
        assert!(
            !QUESTION.agreed(&contacts, 6, Some(1), (5, 10)),
            "another term"
        );
        assert!(
            !QUESTION.agreed(&contacts, 5, Some(2), (5, 10)),
            "another leader"
        );
        assert!(
            !QUESTION.agreed(&contacts, 5, Some(1), (5, 11)),
            "a shorter log"
        );
        assert!(
            QUESTION.agreed(&contacts, 5, None, (4, 99)),
            "an older last term"
        );
    }
}
