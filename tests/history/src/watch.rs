//! Watches against the log: what a watch showed is the log from where it began, in order, nothing
//! missing, nothing doubled, and all events of a revision together.

use serde::{Deserialize, Serialize};

use crate::operation::Change;

/// What one watch showed, over all its streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Who watched.
    pub name: String,
    /// The key that it watched; `None` is all.
    pub key: Option<String>,
    /// First revision that was asked for.
    pub from: i64,
    /// Responses with events, in the order in which they came.
    pub responses: Vec<Vec<Change>>,
}

/// Checks a watch that was followed at least to revision `through`.
pub fn check_watch(watch: &Watch, log: &[Change], through: i64) -> Result<(), String> {
    let name = &watch.name;
    let mut last = watch.from - 1;
    for (number, response) in watch.responses.iter().enumerate() {
        let Some(first) = response.first() else {
            continue;
        };
        if first.revision <= last {
            return Err(format!(
                "{name}: response {number} begins at r{}, after r{last} was complete: out of \
                 order, doubled or split",
                first.revision
            ));
        }
        if !response.is_sorted_by_key(|change| change.revision) {
            return Err(format!("{name}: response {number} is out of order"));
        }
        last = response.last().map_or(last, |change| change.revision);
    }
    let mut shown = watch.responses.iter().flatten();
    let mut expected = log.iter().filter(|change| {
        change.revision >= watch.from && watch.key.as_ref().is_none_or(|key| change.key == *key)
    });
    loop {
        match (shown.next(), expected.next()) {
            (Some(shown), Some(expected)) if shown == expected => {}
            (Some(shown), Some(expected)) => {
                return Err(format!(
                    "{name}: the log has {expected:?}, it showed {shown:?}"
                ));
            }
            (Some(shown), None) => {
                return Err(format!("{name}: the log ended before it showed {shown:?}"));
            }
            (None, Some(expected)) if expected.revision <= through || expected.revision == last => {
                return Err(format!("{name}: it never showed {expected:?}"));
            }
            (None, Some(_) | None) => return Ok(()),
        }
    }
}

/// Where two logs differ, in words.
pub fn first_difference(one: &[Change], two: &[Change]) -> Option<String> {
    let differs = one.iter().zip(two).find(|(one, two)| one != two);
    if let Some((one, two)) = differs {
        return Some(format!("{one:?} against {two:?}"));
    }
    let more = one.get(two.len()).or_else(|| two.get(one.len()))?;
    Some(format!(
        "{} changes against {}: {more:?} is in one only",
        one.len(),
        two.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a watch began, what it showed, and words of the refusal.
    type Case<'a> = (i64, &'a [&'a [(i64, &'a str)]], &'a str);

    fn change(revision: i64, key: &str) -> Change {
        Change {
            revision,
            key: key.to_owned(),
            kv: None,
        }
    }

    /// A log of r2 a, r3 a and b, r4 a; a watch of `responses` from `from` followed to r4.
    fn check(from: i64, responses: &[&[(i64, &str)]]) -> String {
        check_key(None, from, responses)
    }

    fn check_key(key: Option<&str>, from: i64, responses: &[&[(i64, &str)]]) -> String {
        let log = [
            change(2, "a"),
            change(3, "a"),
            change(3, "b"),
            change(4, "a"),
        ];
        let events = |response: &&[(i64, &str)]| {
            let changes = response
                .iter()
                .map(|(revision, key)| change(*revision, key));
            changes.collect()
        };
        let watch = Watch {
            name: "w".to_owned(),
            key: key.map(str::to_owned),
            from,
            responses: responses.iter().map(events).collect(),
        };
        check_watch(&watch, &log, 4).err().unwrap_or_default()
    }

    #[test]
    fn whole_log_passes_however_it_is_cut_between_revisions() {
        assert_eq!(check(1, &[&[(2, "a"), (3, "a"), (3, "b"), (4, "a")]]), "");
        let cut: &[&[(i64, &str)]] = &[&[(2, "a")], &[], &[(3, "a"), (3, "b")], &[(4, "a")]];
        assert_eq!(check(2, cut), "");
        assert_eq!(check(4, &[&[(4, "a")]]), "");
        assert_eq!(check_key(Some("b"), 1, &[&[(3, "b")]]), "");
    }

    #[test]
    fn gaps_doubles_splits_and_inventions_are_refused() {
        let cases: [Case<'_>; 6] = [
            (1, &[&[(2, "a")], &[(4, "a")]], "the log has"),
            (1, &[&[(2, "a"), (3, "a"), (3, "b")]], "it never showed"),
            (
                2,
                &[&[(2, "a")], &[(2, "a")]],
                "out of order, doubled or split",
            ),
            (1, &[&[(2, "a"), (3, "a")], &[(3, "b"), (4, "a")]], "split"),
            (1, &[&[(3, "a"), (2, "a")]], "response 0 is out of order"),
            (4, &[&[(4, "a")], &[(5, "a")]], "the log ended before"),
        ];
        for (from, responses, expected) in cases {
            let found = check(from, responses);
            assert!(found.contains(expected), "{found:?} for {responses:?}");
        }
    }

    #[test]
    fn logs_are_compared_to_the_end() {
        let one = [change(2, "a"), change(3, "a")];
        assert_eq!(first_difference(&one, &one), None);
        assert!(first_difference(&one, &one[..1]).is_some_and(|text| text.contains("2 changes")));
        assert!(first_difference(&one, &[change(2, "b")]).is_some());
    }
}
