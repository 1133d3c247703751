//! Where the data of a host ends, and whether one end has all that another has.
//!
//! A position is a text of the database's own making; the group compares, and never counts it up.
//!
//! | kind | text | covers |
//! | --- | --- | --- |
//! | number | `17` | a position no greater |
//! | gtid | `0-1-100,0-2-7`, as `MariaDB`'s `gtid_binlog_state` | no greater number of a server |
//! | lsn | `1@0/3000148,2@0/5000060`: timelines, their ends | a path of the same, no longer |
//!
//! `0` is an empty store in all of them.
//!
//! Invariants
//! - what cannot be compared is not covered.
//! - a position that covers another has no lesser [`Data::advance`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most timelines of a position; older ones are left out of the text.
const TIMELINES_MAX: usize = 20;

/// What of a host tells whether it has all writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    /// Nothing is kept from one holder to the next.
    #[default]
    None,
    /// A position in one sequence of writes, as a number.
    Number,
    /// The last transaction of each server in each domain, as `MariaDB` has it.
    Gtid,
    /// Timelines and where each ends, in bytes of `PostgreSQL`'s write-ahead log.
    Lsn,
}

/// The end of a store, as its kind of data says it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Position {
    Number(u64),
    Gtid(BTreeMap<(u32, u32), u64>),
    /// Timelines ascend, and none ends before the one that it came from.
    Lsn(Vec<(u32, u64)>),
}

/// Digits alone: no sign, no space.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let plain = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

fn gtid(text: &str) -> Option<BTreeMap<(u32, u32), u64>> {
    let mut state = BTreeMap::new();
    if text == "0" {
        return Some(state);
    }
    for one in text.split(',') {
        let mut parts = one.splitn(3, '-');
        let (domain, server) = (number(parts.next()?)?, number(parts.next()?)?);
        let last = state.insert((domain, server), number(parts.next()?)?);
        if last.is_some() {
            return None;
        }
    }
    Some(state)
}

fn hexadecimal(text: &str) -> Option<u32> {
    let plain = (1..=8).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_hexdigit());
    u32::from_str_radix(text, 16).ok().filter(|_| plain)
}

fn lsn(text: &str) -> Option<Vec<(u32, u64)>> {
    let mut path: Vec<(u32, u64)> = Vec::new();
    if text == "0" {
        return Some(path);
    }
    for one in text.split(',') {
        let (timeline, end) = one.split_once('@')?;
        let timeline = number(timeline)?;
        let (high, low) = end.split_once('/')?;
        let end = u64::from(hexadecimal(high)?) << 32 | u64::from(hexadecimal(low)?);
        let in_order = path
            .last()
            .is_none_or(|(last, ended)| *last < timeline && *ended <= end);
        if !in_order || path.len() == TIMELINES_MAX {
            return None;
        }
        path.push((timeline, end));
    }
    Some(path)
}

/// Whether `position` is a part of the way that `start` went; `None` when that way is not known so
/// far back.
fn on_path(start: &[(u32, u64)], position: &[(u32, u64)]) -> Option<bool> {
    let Some(((timeline, end), switched)) = position.split_last() else {
        return Some(true);
    };
    let Some((first, _)) = start.first() else {
        return Some(false);
    };
    if timeline < first {
        return None;
    }
    let at = |wanted: &u32| start.iter().find(|(timeline, _)| timeline == wanted);
    let same = |one: &(u32, u64)| one.0 < *first || at(&one.0) == Some(one);
    // The last of `start` is no switch: it has not been left.
    let left = |one: &(u32, u64)| start.last().is_none_or(|last| last.0 != one.0);
    let reached = at(timeline).is_some_and(|(_, reached)| end <= reached);
    Some(reached && switched.iter().all(|one| same(one) && left(one)))
}

impl Data {
    fn parse(self, text: &str) -> Option<Position> {
        match self {
            Self::None => None,
            Self::Number => number(text).map(Position::Number),
            Self::Gtid => gtid(text).map(Position::Gtid),
            Self::Lsn => lsn(text).map(Position::Lsn),
        }
    }

    /// Its form, for people.
    pub fn form(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Number => "a number from 0 to 18446744073709551615",
            Self::Gtid => "DOMAIN-SERVER-SEQUENCE,... with each server of a domain once, or 0",
            Self::Lsn => "TIMELINE@HIGH/LOW,... in order, 20 at most, or 0",
        }
    }

    /// Whether `text` is a position.
    pub fn is_position(self, text: &str) -> bool {
        match self {
            Self::None => text.is_empty(),
            Self::Number | Self::Gtid | Self::Lsn => self.parse(text).is_some(),
        }
    }

    /// Whether a store at `position` has anything: at the beginning of the sequence it is empty.
    pub fn is_some(self, position: &str) -> bool {
        match self.parse(position) {
            Some(Position::Number(number)) => number != 0,
            Some(Position::Gtid(state)) => !state.is_empty(),
            Some(Position::Lsn(path)) => !path.is_empty(),
            // What cannot be read is not known to be nothing.
            None => self != Self::None,
        }
    }

    /// Whether all that `position` covers is covered by `start`; `None` when that cannot be told.
    pub fn covers(self, start: &str, position: &str) -> Option<bool> {
        if self == Self::None {
            return Some(true);
        }
        match (self.parse(start)?, self.parse(position)?) {
            (Position::Number(start), Position::Number(position)) => Some(position <= start),
            (Position::Gtid(start), Position::Gtid(position)) => {
                let has =
                    |(server, last): (&_, &u64)| start.get(server).is_some_and(|at| at >= last);
                Some(position.iter().all(has))
            }
            (Position::Lsn(start), Position::Lsn(position)) => on_path(&start, &position),
            _ => None,
        }
    }

    /// How much of what `ahead` has is missing at `behind`: transactions, bytes, or units of a
    /// number; `None` when `behind` is somewhere else.
    pub fn lag(self, ahead: &str, behind: &str) -> Option<u64> {
        match (self.parse(ahead)?, self.parse(behind)?) {
            (Position::Number(ahead), Position::Number(behind)) => {
                Some(ahead.saturating_sub(behind))
            }
            (Position::Gtid(ahead), Position::Gtid(behind)) => {
                // Sequences of a domain grow whichever server writes.
                let (ahead, behind) = (last_of_each(&ahead), last_of_each(&behind));
                let missing = ahead.iter().map(|(domain, last)| {
                    last.saturating_sub(behind.get(domain).copied().unwrap_or(0))
                });
                Some(missing.fold(0, u64::saturating_add))
            }
            (Position::Lsn(ahead), Position::Lsn(behind)) => {
                let end = |path: &[(u32, u64)]| path.last().map_or(0, |(_, end)| *end);
                let related = on_path(&ahead, &behind)? || on_path(&behind, &ahead)?;
                related.then(|| end(&ahead).saturating_sub(end(&behind)))
            }
            _ => None,
        }
    }

    /// A number that grows with what a position covers, to say which of several is ahead; 0 for
    /// what is no position.
    pub fn advance(self, position: &str) -> u128 {
        match self.parse(position) {
            None => 0,
            Some(Position::Number(number)) => number.into(),
            Some(Position::Gtid(state)) => {
                let last = last_of_each(&state);
                last.values().map(|last| u128::from(*last)).sum()
            }
            Some(Position::Lsn(path)) => path.last().map_or(0, |(timeline, end)| {
                u128::from(*timeline) << 64 | u128::from(*end)
            }),
        }
    }
}

/// The last sequence of each domain.
fn last_of_each(state: &BTreeMap<(u32, u32), u64>) -> BTreeMap<u32, u64> {
    let mut domains = BTreeMap::new();
    for ((domain, _), sequence) in state {
        let last: &mut u64 = domains.entry(*domain).or_default();
        *last = (*last).max(*sequence);
    }
    domains
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_positions_and_texts_that_are_not() {
        for (data, good) in [
            (Data::None, vec![""]),
            (Data::Number, vec!["0", "17", "18446744073709551615"]),
            (Data::Gtid, vec!["0", "0-1-100", "0-1-100,0-2-7,1-1-1"]),
            (
                Data::Lsn,
                vec!["0", "1@0/3000148", "1@0/3000148,2@A/5000060"],
            ),
        ] {
            for text in good {
                assert!(data.is_position(text), "{data:?} {text}");
            }
        }
        for (data, bad) in [
            (Data::None, vec!["0", "x"]),
            (
                Data::Number,
                vec!["", "+1", "-1", "1 ", "18446744073709551616"],
            ),
            (
                Data::Gtid,
                vec![
                    "",
                    "0-1",
                    "0-1-1,",
                    "0-1-1,0-1-2",
                    "0-+1-1",
                    "0-1-1-1",
                    "4294967296-1-1",
                ],
            ),
            (
                Data::Lsn,
                vec![
                    "",
                    "1",
                    "1@",
                    "1@0",
                    "1@0/",
                    "1@0/123456789",
                    "2@0/1,1@0/2",
                    "1@0/2,2@0/1",
                    "1@0/+1",
                    "x@0/1",
                    "1@0/1,1@0/2",
                ],
            ),
        ] {
            for text in bad {
                assert!(!data.is_position(text), "{data:?} {text:?}");
            }
        }
        let long = |count: u32| {
            let one = |timeline| format!("{timeline}@0/{timeline:X}");
            (1..=count).map(one).collect::<Vec<_>>().join(",")
        };
        assert!(Data::Lsn.is_position(&long(20)) && !Data::Lsn.is_position(&long(21)));
    }

    #[test]
    fn a_server_that_wrote_what_the_start_lacks_is_not_covered() {
        let covers = |start, position| Data::Gtid.covers(start, position);
        assert_eq!(covers("0-1-100", "0-1-100"), Some(true));
        assert_eq!(covers("0-1-100", "0-1-101"), Some(false));
        assert_eq!(covers("0-1-100,0-2-150", "0-1-90,0-2-150"), Some(true));
        assert_eq!(
            covers("0-1-100,0-2-150", "0-1-100,0-2-150,0-3-1"),
            Some(false)
        );
        assert_eq!(
            covers("0-2-150", "0-1-100"),
            Some(false),
            "not known to have it"
        );
        assert_eq!(covers("0-1-1", "0"), Some(true));
        assert_eq!(covers("0", "0-1-1"), Some(false));
        assert_eq!(covers("0-1-1", "nothing"), None);
    }

    #[test]
    fn a_path_of_timelines_is_covered_up_to_where_it_was_left() {
        let covers = |start, position| Data::Lsn.covers(start, position);
        assert_eq!(covers("1@0/50", "1@0/50"), Some(true));
        assert_eq!(covers("1@0/50", "1@0/51"), Some(false));
        assert_eq!(covers("1@0/50,2@0/90", "1@0/4F"), Some(true), "left later");
        assert_eq!(
            covers("1@0/50,2@0/90", "1@0/51"),
            Some(false),
            "went on alone"
        );
        assert_eq!(covers("1@0/50,2@0/90", "1@0/50,2@0/90"), Some(true));
        assert_eq!(
            covers("1@0/50,2@0/90", "1@0/40,2@0/60"),
            Some(false),
            "left before"
        );
        assert_eq!(
            covers("1@0/50,2@0/90", "1@0/50,3@0/60"),
            Some(false),
            "another's"
        );
        assert_eq!(covers("1@0/50", "1@0/50,2@0/60"), Some(false));
        assert_eq!(covers("1@0/50,2@0/90", "0"), Some(true));
        assert_eq!(covers("0", "1@0/1"), Some(false));
        assert_eq!(
            covers("2@0/90,3@0/95", "1@0/50"),
            None,
            "not known so far back"
        );
        assert_eq!(covers("2@0/90,3@0/95", "1@0/50,2@0/80"), Some(true));
    }

    #[test]
    fn lag_is_what_is_missing() {
        assert_eq!(Data::Number.lag("10", "7"), Some(3));
        assert_eq!(Data::Number.lag("7", "10"), Some(0));
        assert_eq!(Data::Gtid.lag("0-1-100,1-1-5", "0-2-90"), Some(15));
        assert_eq!(Data::Gtid.lag("0-1-100", "0-1-90,0-2-101"), Some(0));
        assert_eq!(Data::Lsn.lag("1@0/50,2@0/90", "1@0/40"), Some(0x50));
        assert_eq!(Data::Lsn.lag("1@0/50,2@0/90", "1@0/60"), None);
        assert_eq!(Data::Lsn.lag("1@0/40", "1@0/50,2@0/90"), Some(0));
    }

    proptest::proptest! {
        #[test]
        fn invariant_what_covers_is_no_less_advanced(
            a in proptest::collection::btree_map((0u32..2, 0u32..3), 0u64..4, 0..5),
            b in proptest::collection::btree_map((0u32..2, 0u32..3), 0u64..4, 0..5),
        ) {
            let text = |state: &BTreeMap<(u32, u32), u64>| {
                let one = |((domain, server), last): (&(u32, u32), &u64)| {
                    format!("{domain}-{server}-{last}")
                };
                let all: Vec<String> = state.iter().map(one).collect();
                if all.is_empty() { "0".to_owned() } else { all.join(",") }
            };
            let (a, b) = (text(&a), text(&b));
            if Data::Gtid.covers(&a, &b) == Some(true) {
                proptest::prop_assert!(Data::Gtid.advance(&a) >= Data::Gtid.advance(&b));
                proptest::prop_assert_eq!(Data::Gtid.lag(&b, &a), Some(0));
            }
            proptest::prop_assert_eq!(Data::Gtid.covers(&a, &a), Some(true));
        }
    }
}
