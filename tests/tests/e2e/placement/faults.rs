//! The faults of the trials, dealt so that every kind comes before one comes twice.

use crate::nemesis::Fault;
use crate::seeds::Numbers;

/// What happens to the host that holds the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HostFault {
    /// SIGKILL for the program.
    ProgramKilled,
    /// SIGKILL for the agent.
    AgentKilled,
    /// SIGTERM for the agent.
    AgentEnded,
    /// SIGSTOP for the agent until another serves; then it goes on.
    AgentStopped,
    /// SIGKILL for the guard.
    GuardKilled,
    /// SIGKILL for agent and guard at once.
    BothKilled,
    /// SIGSTOP for the guard, and the role is switched to the other or, in half of the trials, the
    /// host is cut off.
    GuardStopped,
    /// Nothing between host and group passes; its clients reach it.
    Cut,
    /// What it asks does not arrive.
    RequestsLost,
    /// What it is answered does not arrive.
    AnswersLost,
    /// The role is switched to the other by an operator.
    Switched,
    /// The host's wall clock is set by an hour, and the host is cut off.
    ClockSet,
    /// The host sleeps until another serves. In half of the trials its program is the first that
    /// runs then, and writes to the resources.
    Suspended,
}

pub(super) const HOST_FAULTS: [HostFault; 13] = [
    HostFault::ProgramKilled,
    HostFault::AgentKilled,
    HostFault::AgentEnded,
    HostFault::AgentStopped,
    HostFault::GuardKilled,
    HostFault::BothKilled,
    HostFault::GuardStopped,
    HostFault::Cut,
    HostFault::RequestsLost,
    HostFault::AnswersLost,
    HostFault::Switched,
    HostFault::ClockSet,
    HostFault::Suspended,
];

pub(super) const GROUP_FAULTS: [Fault; 9] = [
    Fault::Kill,
    Fault::KillAll,
    Fault::Pause,
    Fault::Partition,
    Fault::OneWay,
    Fault::SlowDisk,
    Fault::StalledDisk,
    Fault::Clock,
    Fault::MoveLeader,
];

/// A kind of trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Host(HostFault),
    Group(Fault),
    /// A fault of the group, while the holder is cut off.
    Both(Fault),
}

/// Deals all cards before one comes twice.
pub(super) struct Deck<T> {
    cards: Vec<T>,
    dealt: usize,
    numbers: Numbers,
}

impl<T: Copy> Deck<T> {
    pub(super) fn new(cards: &[T], seed: u64) -> Self {
        let mut deck = Self {
            cards: cards.to_vec(),
            dealt: 0,
            numbers: Numbers::new(seed),
        };
        deck.shuffle();
        deck
    }

    /// The deck of lane `number` of so many, which begins where those before it leave off: together
    /// they deal all in as few rounds as can be.
    pub(super) fn of_lane(cards: &[T], seed: u64, number: usize, lanes: usize) -> Self {
        let mut deck = Self::new(cards, seed);
        deck.cards.rotate_left(number * cards.len() / lanes);
        deck.numbers = Numbers::new(seed ^ ((number as u64 + 1) << 32));
        deck
    }

    fn shuffle(&mut self) {
        for left in (1..self.cards.len()).rev() {
            let other = self.numbers.below(left as u64 + 1);
            self.cards.swap(left, usize::try_from(other).unwrap_or(0));
        }
    }

    /// The next, and how many times all were dealt before.
    pub(super) fn deal(&mut self) -> (T, usize) {
        let place = self.dealt % self.cards.len();
        if place == 0 && self.dealt > 0 {
            self.shuffle();
        }
        let passes = self.dealt / self.cards.len();
        self.dealt += 1;
        (self.cards[place], passes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn lanes_deal_all_together_and_each_deals_all_before_one_twice() {
        for (lanes, rounds) in [(1, 13), (2, 7), (3, 5), (5, 3), (13, 1), (20, 1)] {
            let mut all = BTreeSet::new();
            for lane in 0..lanes {
                let mut deck = Deck::of_lane(&HOST_FAULTS, 7, lane, lanes);
                all.extend((0..rounds).map(|_| deck.deal().0));
                let mut deck = Deck::of_lane(&HOST_FAULTS, 7, lane, lanes);
                for pass in 0..3 {
                    let dealt: BTreeSet<_> = (0..13).map(|_| deck.deal()).collect();
                    let whole = HOST_FAULTS.map(|fault| (fault, pass));
                    assert_eq!(dealt, BTreeSet::from(whole));
                }
            }
            assert_eq!(all, BTreeSet::from(HOST_FAULTS), "{lanes} lanes");
        }
    }
}
