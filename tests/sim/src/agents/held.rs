//! What a host has of a role's data: which writes, in which order, and how many of them are on its
//! disk.
//!
//! The group is told no more than where they end; which ones they are is for the invariants.

use crate::rng::Rng;

/// A store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// It has any.
    pub has: bool,
    /// The epochs in which its writes were made, and where each one's end.
    writes: Vec<(i64, u64)>,
    /// How many of them a loss of power leaves at least; `None`: all.
    kept: Option<u64>,
}

impl Held {
    /// Where it ends.
    pub fn position(&self) -> u64 {
        self.writes.last().map_or(0, |(_, end)| *end)
    }

    /// One more, of this epoch, which is on the disk.
    pub fn wrote(&mut self, epoch: i64) {
        let end = self.position() + 1;
        match self.writes.last_mut() {
            Some((last, at)) if *last == epoch => *at = end,
            _ => self.writes.push((epoch, end)),
        }
        self.kept = None;
    }

    /// How many of the first writes are the same in both.
    pub fn common(&self, other: &Self) -> u64 {
        let mut common = 0;
        for (mine, its) in self.writes.iter().zip(&other.writes) {
            if mine.0 != its.0 {
                break;
            }
            common = mine.1.min(its.1);
            if mine.1 != its.1 {
                break;
            }
        }
        common
    }

    /// Whether `other` has all that this one has.
    pub fn is_part_of(&self, other: &Self) -> bool {
        self.common(other) == self.position()
    }

    /// The first of its writes.
    #[must_use]
    pub fn first(&self, count: u64) -> Self {
        let mut first = self.clone();
        first.cut(count);
        first
    }

    fn cut(&mut self, count: u64) {
        while let Some((epoch, end)) = self.writes.pop() {
            if self.position() < count {
                self.writes.push((epoch, end.min(count)));
                return;
            }
        }
    }

    /// It is another's copy now, of which the disk has as much as before; or all, if `synced`.
    pub fn receives(&mut self, source: &Self, synced: bool) {
        let kept = self.kept.unwrap_or_else(|| self.position());
        self.has = true;
        self.writes.clone_from(&source.writes);
        self.kept = (!synced).then_some(kept);
    }

    /// Leaves what a loss of power leaves.
    pub fn power_lost(&mut self, rng: &mut Rng) {
        if let Some(kept) = self.kept.take() {
            let count = rng.between(kept, self.position().max(kept));
            self.cut(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(epochs: &[i64]) -> Held {
        let mut held = Held::default();
        for epoch in epochs {
            held.wrote(*epoch);
        }
        held
    }

    #[test]
    fn stores_have_in_common_what_was_written_in_the_same_epochs() {
        let old = held(&[5, 5, 5]);
        assert_eq!(old.common(&held(&[5, 5, 9, 9])), 2, "the third is another");
        assert_eq!(old.common(&held(&[7])), 0);
        assert!(old.is_part_of(&held(&[5, 5, 5, 9])));
        assert!(held(&[]).is_part_of(&old));
        assert!(!old.is_part_of(&held(&[5, 5])));
        assert_eq!(held(&[5, 5, 9, 9]).first(3), held(&[5, 5, 9]));
        assert_eq!(held(&[5, 5, 9, 9]).first(2), held(&[5, 5]));
        assert_eq!(held(&[5]).first(0), held(&[]));
    }

    #[test]
    fn a_loss_of_power_leaves_what_was_on_the_disk_or_more() {
        let mut left = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut held = held(&[5]);
            held.receives(&self::held(&[5, 5, 9]), false);
            held.power_lost(&mut Rng::new(seed));
            left.insert(held.position());
            held.receives(&self::held(&[5, 5, 9]), true);
            held.power_lost(&mut Rng::new(seed));
            assert_eq!(held.position(), 3);
        }
        assert_eq!(left, [1, 2, 3].into());
    }
}
