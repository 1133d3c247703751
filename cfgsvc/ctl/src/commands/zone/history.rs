//! `cfgctl zone history`: the commits by which a zone has another serial.
//!
//! Those of its own keys are changes of what the group counts of the zone; a failover changes only
//! what it counts of the role, whoever follows it. The two are put together here, as a name server
//! adds them up.

use crate::Outcome;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::past::{change, or_dash};
use crate::render::{Table, time};
use cfgsvc_client::HistoryEntry;
use cfgsvc_core::placement::RoleName;
use cfgsvc_core::zones::{Moved, ZoneName, ZoneSerial, keys, on_wire};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// What a commit changed of a serial.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Counted {
    /// The zone has another count.
    Zone(ZoneSerial),
    /// A role that it may follow has.
    Role(RoleName, u64),
}

pub(crate) async fn run(context: &Context, zone: &ZoneName, limit: i64) -> Outcome {
    let client = context.client()?;
    let history = client.history(keys::serial(zone), limit, 0).await?;
    if history.entries.is_empty() {
        return Err(
            Diagnostic::refused(format!("zone `{zone}` was never there"))
                .hint("`cfgctl zone list` prints those that there are"),
        );
    }
    let mut commits: Vec<(i64, HistoryEntry, Counted)> = Vec::new();
    let mut roles = BTreeSet::new();
    for entry in history.entries {
        let found = change(&entry).and_then(|(_, kv)| {
            let serial: ZoneSerial = serde_json::from_slice(&kv.value).ok()?;
            Some((kv.mod_revision, serial))
        });
        if let Some((revision, serial)) = found {
            roles.extend(serial.roles.keys().cloned());
            commits.push((revision, entry, Counted::Zone(serial)));
        }
    }
    for role in roles {
        for entry in client.history(keys::moved(&role), limit, 0).await?.entries {
            let found = change(&entry).and_then(|(_, kv)| {
                let moved: Moved = serde_json::from_slice(&kv.value).ok()?;
                Some((kv.mod_revision, moved.count))
            });
            if let Some((revision, count)) = found {
                commits.push((revision, entry, Counted::Role(role.clone(), count)));
            }
        }
    }
    commits.sort_by_key(|(revision, ..)| *revision);
    let changes = commits
        .iter()
        .map(|(revision, _, counted)| (*revision, counted));
    let serials = serials(changes);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let shown: Vec<_> = serials
        .iter()
        .skip(serials.len().saturating_sub(limit))
        .filter_map(|(revision, serial)| {
            let (_, entry, _) = commits.iter().find(|(one, ..)| one == revision)?;
            Some((*revision, entry, *serial))
        })
        .collect();
    print(context, zone, &shown)
}

/// The serials of a zone, by the revisions at which it had another. What is counted comes by
/// revision.
fn serials<'a>(changes: impl Iterator<Item = (i64, &'a Counted)>) -> Vec<(i64, u32)> {
    let mut zone: Option<ZoneSerial> = None;
    let mut moves: BTreeMap<RoleName, u64> = BTreeMap::new();
    let mut found: Vec<(i64, u64)> = Vec::new();
    let mut changes = changes.peekable();
    while let Some((revision, counted)) = changes.next() {
        match counted {
            Counted::Zone(serial) => {
                for (role, count) in &serial.roles {
                    moves.insert(role.clone(), *count);
                }
                zone = Some(serial.clone());
            }
            Counted::Role(role, count) => {
                let known = moves.entry(role.clone()).or_default();
                *known = (*known).max(*count);
            }
        }
        // A commit may change both.
        if changes.peek().is_some_and(|(next, _)| *next == revision) {
            continue;
        }
        let Some(zone) = &zone else { continue };
        let now = zone.now(|role| moves.get(role).copied().unwrap_or_default());
        if found.last().is_none_or(|(_, before)| *before != now) {
            found.push((revision, now));
        }
    }
    let each = found.into_iter();
    each.map(|(revision, count)| (revision, on_wire(count)))
        .collect()
}

fn print(context: &Context, zone: &ZoneName, shown: &[(i64, &HistoryEntry, u32)]) -> Outcome {
    let table = || {
        let mut table = Table::new(["REVISION", "TIME", "AUTHOR", "REASON", "SERIAL"]);
        for (revision, entry, serial) in shown {
            let at = if entry.at_ms > 0 {
                time(entry.at_ms)
            } else {
                "-".to_owned()
            };
            table.row([
                revision.to_string(),
                at,
                or_dash(&entry.author),
                or_dash(&entry.reason),
                serial.to_string(),
            ]);
        }
        table
    };
    context.print(table, || {
        let entries = shown.iter().map(|(revision, entry, serial)| {
            json!({
                "revision": revision,
                "at_ms": entry.at_ms,
                "author": entry.author,
                "reason": entry.reason,
                "serial": serial,
            })
        });
        json!({ "zone": zone.to_string(), "changes": entries.collect::<Vec<_>>() })
    })?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> RoleName {
        name.parse().expect("a role")
    }

    fn zone(count: u64, roles: &[(&str, u64)]) -> Counted {
        let roles = roles.iter().map(|(name, count)| (role(name), *count));
        Counted::Zone(ZoneSerial {
            count,
            roles: roles.collect(),
        })
    }

    fn moved(name: &str, count: u64) -> Counted {
        Counted::Role(role(name), count)
    }

    #[test]
    fn failovers_are_among_the_changes_of_a_zone_that_follows() {
        let changes = [
            // Of before the zone was there, or followed.
            (2, moved("web", 3)),
            (4, zone(7, &[])),
            (5, moved("web", 4)),
            (6, zone(8, &[("web", 4)])),
            (7, moved("web", 5)),
            (9, moved("db", 1)),
            // Moved and changed in one commit: what it is from then on has both.
            (10, zone(10, &[("web", 6)])),
            (10, moved("web", 6)),
            (12, moved("web", 7)),
            (13, zone(12, &[])),
            (14, moved("web", 8)),
        ];
        let changes = changes
            .iter()
            .map(|(revision, counted)| (*revision, counted));
        assert_eq!(
            serials(changes),
            [(4, 7), (6, 8), (7, 9), (10, 10), (12, 11), (13, 12)]
        );
    }

    #[test]
    fn every_commit_that_changes_the_zone_is_there_once() {
        let changes = [
            (4, zone(7, &[("web", 2)])),
            // The first one known of the role is of before.
            (4, moved("web", 2)),
            (8, moved("web", 3)),
        ];
        let changes = changes
            .iter()
            .map(|(revision, counted)| (*revision, counted));
        assert_eq!(serials(changes), [(4, 7), (8, 8)]);
    }
}
