//! Merging of what is in order, by a tree of losers: one comparison for each level, and most of
//! them of eight octets that are at hand.

use crate::RunError;

/// Goes over records in order.
pub trait Cursor {
    /// Goes to the next record, of the first one at the start; false when there is none.
    fn advance(&mut self) -> Result<bool, RunError>;

    /// Of the record it is at.
    fn key(&self) -> &[u8];

    /// Of the record it is at.
    fn value(&self) -> &[u8];
}

/// The first eight octets of a key, which decide most comparisons.
pub(crate) fn prefix(key: &[u8]) -> u64 {
    if let Some(first) = key.first_chunk::<8>() {
        return u64::from_be_bytes(*first);
    }
    let mut first = [0; 8];
    first[..key.len()].copy_from_slice(key);
    u64::from_be_bytes(first)
}

/// What is known of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Head {
    /// At a record whose key begins so.
    At(u64),
    /// There is nothing more. It comes after all others.
    End,
}

/// Many cursors as one. Of equal keys, those of the cursor that was named first come first.
#[derive(Debug)]
pub struct Merge<C> {
    cursors: Vec<C>,
    heads: Vec<Head>,
    /// `[0]`: who comes first; from there on who lost at each place of the tree, whose leaves are
    /// the cursors.
    tree: Vec<usize>,
    started: bool,
}

impl<C: Cursor> Merge<C> {
    /// Of cursors that have not been advanced.
    pub fn new(cursors: Vec<C>) -> Self {
        Self {
            heads: vec![Head::End; cursors.len()],
            tree: vec![0; cursors.len()],
            cursors,
            started: false,
        }
    }

    fn step(&mut self, leaf: usize) -> Result<(), RunError> {
        let cursor = &mut self.cursors[leaf];
        self.heads[leaf] = if cursor.advance()? {
            Head::At(prefix(cursor.key()))
        } else {
            Head::End
        };
        Ok(())
    }

    fn is_before(&self, a: usize, b: usize) -> bool {
        let by_head = self.heads[a].cmp(&self.heads[b]);
        let order = by_head.then_with(|| match self.heads[a] {
            Head::At(_) => self.cursors[a].key().cmp(self.cursors[b].key()),
            Head::End => std::cmp::Ordering::Equal,
        });
        order.then(a.cmp(&b)).is_lt()
    }

    /// Plays all matches; the winner below a place of the tree.
    fn play(&mut self, place: usize) -> usize {
        let count = self.cursors.len();
        if place >= count {
            return place - count;
        }
        let (left, right) = (self.play(place * 2), self.play(place * 2 + 1));
        let left_wins = self.is_before(left, right);
        let (winner, loser) = if left_wins {
            (left, right)
        } else {
            (right, left)
        };
        self.tree[place] = loser;
        winner
    }
}

impl<C: Cursor> Cursor for Merge<C> {
    fn advance(&mut self) -> Result<bool, RunError> {
        if self.cursors.is_empty() {
            return Ok(false);
        }
        if self.started {
            let mut winner = self.tree[0];
            self.step(winner)?;
            // From its leaf up.
            let mut place = winner + self.cursors.len();
            while place > 1 {
                place /= 2;
                if self.is_before(self.tree[place], winner) {
                    std::mem::swap(&mut self.tree[place], &mut winner);
                }
            }
            self.tree[0] = winner;
        } else {
            self.started = true;
            for leaf in 0..self.cursors.len() {
                self.step(leaf)?;
            }
            self.tree[0] = self.play(1);
        }
        Ok(self.heads[self.tree[0]] != Head::End)
    }

    fn key(&self) -> &[u8] {
        self.cursors[self.tree[0]].key()
    }

    fn value(&self) -> &[u8] {
        self.cursors[self.tree[0]].value()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    /// The record is the first of the group, and was not given out.
    First,
    /// The record was given out.
    Within,
    /// The record is of the next group.
    Next,
    End,
}

/// The records of a cursor as groups of values with one key. Values are read as they are asked for:
/// there may be more than fit into memory.
#[derive(Debug)]
pub struct Groups<C> {
    cursor: C,
    /// Octets of a key that make its group.
    part: fn(&[u8]) -> usize,
    /// Of the first record of the group.
    key: Vec<u8>,
    at: At,
}

/// Two keys are of one group.
fn is_one_group(part: fn(&[u8]) -> usize, a: &[u8], b: &[u8]) -> bool {
    a[..part(a)] == b[..part(b)]
}

impl<C: Cursor> Groups<C> {
    /// Of a cursor that has not been advanced.
    pub fn new(cursor: C) -> Self {
        Self::by(<[u8]>::len, cursor)
    }

    /// Grouped by so many first octets of a key, which `part` tells: for a secondary sort.
    pub fn by(part: fn(&[u8]) -> usize, cursor: C) -> Self {
        Self {
            cursor,
            part,
            key: Vec::new(),
            at: At::Start,
        }
    }

    /// Goes to the next group, past values that nobody asked for; false when there is none.
    pub fn advance(&mut self) -> Result<bool, RunError> {
        while matches!(self.at, At::First | At::Within) {
            self.group().1.advance()?;
        }
        if self.at == At::Start {
            let found = self.cursor.advance()?;
            self.at = if found { At::Next } else { At::End };
        }
        if self.at == At::End {
            return Ok(false);
        }
        self.key.clear();
        self.key.extend_from_slice(self.cursor.key());
        self.at = At::First;
        Ok(true)
    }

    /// Of the group.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Key, and a way to the values, at once.
    pub fn group(&mut self) -> (&[u8], Values<'_, C>) {
        let values = Values {
            cursor: &mut self.cursor,
            part: self.part,
            key: &self.key,
            at: &mut self.at,
        };
        (&self.key, values)
    }
}

/// The values of a group.
#[derive(Debug)]
pub struct Values<'a, C> {
    cursor: &'a mut C,
    part: fn(&[u8]) -> usize,
    key: &'a [u8],
    at: &'a mut At,
}

impl<C: Cursor> Values<'_, C> {
    /// The next one.
    pub fn advance(&mut self) -> Result<Option<&[u8]>, RunError> {
        *self.at = match *self.at {
            At::First => At::Within,
            At::Within if !self.cursor.advance()? => At::End,
            At::Within if is_one_group(self.part, self.cursor.key(), self.key) => At::Within,
            At::Within => At::Next,
            other @ (At::Start | At::Next | At::End) => other,
        };
        Ok((*self.at == At::Within).then(|| self.cursor.value()))
    }

    /// The key of the value that was given last, or of the first one before that.
    pub fn key(&self) -> &[u8] {
        if *self.at == At::Within {
            self.cursor.key()
        } else {
            self.key
        }
    }
}

/// Records in memory, for tests and small things.
#[derive(Debug)]
pub struct InMemory {
    records: Vec<(Vec<u8>, Vec<u8>)>,
    next: usize,
}

impl InMemory {
    /// Of records that are in order.
    pub fn new(records: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        Self { records, next: 0 }
    }
}

impl Cursor for InMemory {
    fn advance(&mut self) -> Result<bool, RunError> {
        self.next += 1;
        Ok(self.next <= self.records.len())
    }

    fn key(&self) -> &[u8] {
        &self.records[self.next - 1].0
    }

    fn value(&self) -> &[u8] {
        &self.records[self.next - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Record = (Vec<u8>, Vec<u8>);

    fn lists() -> impl Strategy<Value = Vec<Vec<Record>>> {
        // Keys that share prefixes of eight octets and more.
        let key = prop::collection::vec(0_u8..2, 0..12);
        let list = prop::collection::vec((key, Just(Vec::new())), 0..30);
        prop::collection::vec(list, 0..20).prop_map(|mut lists| {
            for (number, list) in lists.iter_mut().enumerate() {
                list.sort();
                for (at, (_, value)) in list.iter_mut().enumerate() {
                    *value = format!("{number}.{at}").into_bytes();
                }
            }
            lists
        })
    }

    fn all(mut cursor: impl Cursor) -> Vec<Record> {
        let mut all = Vec::new();
        while cursor.advance().expect("memory") {
            all.push((cursor.key().to_vec(), cursor.value().to_vec()));
        }
        all
    }

    proptest! {
        #[test]
        fn merge_is_the_stable_sort_of_all(lists in lists()) {
            let merged = all(Merge::new(lists.iter().cloned().map(InMemory::new).collect()));
            let mut expected = lists.concat();
            expected.sort_by(|a, b| a.0.cmp(&b.0));
            prop_assert_eq!(merged, expected);
        }

        #[test]
        fn groups_are_all_records_with_a_key_whatever_is_left_unread(
            lists in lists(), take in 0_usize..4,
        ) {
            let mut records = lists.concat();
            records.sort_by(|a, b| a.0.cmp(&b.0));
            let mut groups = Groups::new(InMemory::new(records.clone()));
            let mut seen = Vec::new();
            while groups.advance().expect("memory") {
                let (key, mut values) = groups.group();
                let of_key = records.iter().filter(|record| record.0 == key);
                let expected: Vec<_> = of_key.map(|record| record.1.clone()).collect();
                let mut found = Vec::new();
                while found.len() < take || take == 3 {
                    match values.advance().expect("memory") {
                        Some(value) => found.push(value.to_vec()),
                        None => break,
                    }
                }
                let asked = if take == 3 { expected.len() } else { expected.len().min(take) };
                prop_assert_eq!(&found[..], &expected[..asked]);
                seen.push(key.to_vec());
            }
            let mut keys: Vec<_> = records.into_iter().map(|record| record.0).collect();
            keys.dedup();
            prop_assert_eq!(seen, keys);
        }
    }
}
