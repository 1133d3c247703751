//! What must hold in every store that the machine has written. Tests run it after each command;
//! it reads everything, so a server runs it only when asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::kv::event::EventType;
use cfgsvc_proto::state::{
    HistoryRecord, KeyRecord, LeaseRecord, MachineRecord, OldRecord, RevisionRecord, SessionRecord,
};
use cluster_core::store::{Direction, View};

use crate::limits::SESSION_WINDOW;
use crate::machine::load_record;
use crate::placement;
use crate::tables::{self, Table};

/// The store, decoded.
struct Store {
    machine: MachineRecord,
    current: BTreeMap<Bytes, KeyRecord>,
    old: BTreeMap<(Bytes, i64), OldRecord>,
    history: BTreeMap<(i64, u32), HistoryRecord>,
    revisions: BTreeMap<i64, RevisionRecord>,
    leases: BTreeMap<i64, LeaseRecord>,
    lease_keys: BTreeSet<(i64, Bytes)>,
    sessions: BTreeMap<i64, SessionRecord>,
    /// Bytes of each.
    replies: BTreeMap<(i64, u64), u64>,
}

/// Checks the whole store; the error says what is wrong. A store that a restore is filling is not
/// checked: it is no state of anything.
pub fn check(view: &dyn View) -> Result<(), String> {
    let store = load(view).map_err(|error| error.to_string())?;
    if store.machine.restore_id != 0 {
        return Ok(());
    }
    invariant_counters_are_in_order(&store.machine)?;
    invariant_current_keys_have_history(&store)?;
    invariant_leases_and_keys_agree(&store)?;
    invariant_old_versions_were_ended(&store)?;
    invariant_versions_do_not_overlap(&store)?;
    invariant_events_have_versions(&store)?;
    invariant_revisions_are_known(&store)?;
    invariant_sessions_count_replies(&store)?;
    placement::check::check(&store.current, &store.leases)
}

fn each(
    view: &dyn View,
    table: Table,
    mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let range = table.range();
    tables::try_scan(view, &range, Direction::Ascending, &mut |key, value| {
        visit(key, value)?;
        Ok(ControlFlow::Continue(()))
    })
}

fn numbers<M: prost::Message + Default>(
    view: &dyn View,
    table: Table,
) -> io::Result<BTreeMap<i64, M>> {
    let mut found = BTreeMap::new();
    each(view, table, |key, value| {
        found.insert(tables::split_number(key)?.0, tables::decode(key, value)?);
        Ok(())
    })?;
    Ok(found)
}

fn load(view: &dyn View) -> io::Result<Store> {
    let mut store = Store {
        machine: load_record(view)?,
        current: BTreeMap::new(),
        old: BTreeMap::new(),
        history: BTreeMap::new(),
        revisions: numbers(view, Table::Revision)?,
        leases: numbers(view, Table::Lease)?,
        lease_keys: BTreeSet::new(),
        sessions: numbers(view, Table::Session)?,
        replies: BTreeMap::new(),
    };
    each(view, Table::Current, |key, value| {
        let record = tables::decode(key, value)?;
        store
            .current
            .insert(Bytes::copy_from_slice(&key[1..]), record);
        Ok(())
    })?;
    each(view, Table::Old, |key, value| {
        store
            .old
            .insert(tables::split_old(key)?, tables::decode(key, value)?);
        Ok(())
    })?;
    each(view, Table::History, |key, value| {
        let place = tables::split_history(key)?;
        store.history.insert(place, tables::decode(key, value)?);
        Ok(())
    })?;
    each(view, Table::LeaseKey, |key, _| {
        let (id, attached) = tables::split_number(key)?;
        store
            .lease_keys
            .insert((id, Bytes::copy_from_slice(attached)));
        Ok(())
    })?;
    each(view, Table::Reply, |key, value| {
        tables::verify(key, value)?;
        let (id, rest) = tables::split_number(key)?;
        // The last 8 of the 17 bytes that `verify` found.
        let seq = rest
            .iter()
            .fold(0, |seq, byte| (seq << 8) | u64::from(*byte));
        store.replies.insert((id, seq), value.len() as u64);
        Ok(())
    })?;
    Ok(store)
}

/// Fails with `what` unless `holds`.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn invariant_counters_are_in_order(machine: &MachineRecord) -> Result<(), String> {
    let in_order = machine.scrubbed_revision >= 0
        && machine.scrubbed_revision <= machine.compacted_revision
        && machine.compacted_revision <= machine.revision
        && machine.lost_after <= machine.lost_until
        && machine.lost_until <= machine.revision
        && machine.revision >= 1;
    ensure(in_order, || {
        format!("counters are out of order: {machine:?}")
    })
}

/// Whether all events of `revision` must still be there.
fn is_whole(machine: &MachineRecord, revision: i64) -> bool {
    revision > machine.scrubbed_revision || revision == machine.compacted_revision
}

fn invariant_current_keys_have_history(store: &Store) -> Result<(), String> {
    let made: BTreeSet<(i64, &Bytes)> = store
        .history
        .iter()
        .filter(|(_, event)| event.r#type() == EventType::Put)
        .map(|((revision, _), event)| (*revision, &event.key))
        .collect();
    for (key, record) in &store.current {
        let counts = record.version >= 1
            && record.create_revision >= 2
            && record.create_revision <= record.mod_revision
            && record.mod_revision <= store.machine.revision;
        ensure(counts, || {
            format!("counts of {key:?} are wrong: {record:?}")
        })?;
        let known = !is_whole(&store.machine, record.mod_revision)
            || made.contains(&(record.mod_revision, key));
        ensure(known, || format!("no event made {key:?} {record:?}"))?;
    }
    Ok(())
}

fn invariant_leases_and_keys_agree(store: &Store) -> Result<(), String> {
    for (key, record) in store.current.iter().filter(|(_, record)| record.lease != 0) {
        let lease = record.lease;
        ensure(store.leases.contains_key(&lease), || {
            format!("lease {lease} of {key:?} does not exist")
        })?;
        ensure(store.lease_keys.contains(&(lease, key.clone())), || {
            format!("{key:?} is not attached to its lease {lease}")
        })?;
    }
    for (lease, key) in &store.lease_keys {
        let held = store.current.get(key).map(|record| record.lease);
        ensure(held == Some(*lease), || {
            format!("{key:?} is attached to lease {lease}, but has {held:?}")
        })?;
    }
    for (id, lease) in &store.leases {
        ensure(lease.ttl_s > 0, || {
            format!("lease {id} has ttl {}", lease.ttl_s)
        })?;
    }
    Ok(())
}

fn invariant_old_versions_were_ended(store: &Store) -> Result<(), String> {
    let machine = &store.machine;
    let mut ended = BTreeMap::new();
    for ((revision, index), event) in &store.history {
        if event.replaced_revision > 0 {
            let version = (&event.key, event.replaced_revision);
            ensure(ended.insert(version, (*revision, *index)).is_none(), || {
                format!("{version:?} was ended twice")
            })?;
        }
    }
    for ((key, mod_revision), old) in &store.old {
        let own = old.record.as_ref().map(|record| record.mod_revision);
        ensure(
            own == Some(*mod_revision) && old.ended_revision > *mod_revision,
            || format!("old version {mod_revision} of {key:?} is wrong: {old:?}"),
        )?;
        let by = ended.get(&(key, *mod_revision)).copied();
        ensure(
            by.map(|(revision, _)| revision) == Some(old.ended_revision),
            || format!("no event ended {key:?} {old:?}, found {by:?}"),
        )?;
        let gone = by.is_some_and(|(revision, index)| {
            revision < machine.scrubbed_revision
                || (revision == machine.scrubbed_revision && index < machine.scrubbed_events)
        });
        ensure(!gone, || {
            format!("{key:?} {old:?} should be scrubbed: {machine:?}")
        })?;
    }
    Ok(())
}

fn invariant_versions_do_not_overlap(store: &Store) -> Result<(), String> {
    let mut last: Option<(&Bytes, i64)> = None;
    for ((key, mod_revision), old) in &store.old {
        let after = last.is_none_or(|(its, ended)| its != key || ended <= *mod_revision);
        ensure(after, || {
            format!("versions of {key:?} overlap at {mod_revision}")
        })?;
        last = Some((key, old.ended_revision));
        let current = store.current.get(key);
        let before = current.is_none_or(|current| old.ended_revision <= current.mod_revision);
        ensure(before, || {
            format!("{key:?} {old:?} overlaps the current version")
        })?;
    }
    Ok(())
}

fn invariant_events_have_versions(store: &Store) -> Result<(), String> {
    let machine = &store.machine;
    let mut next: (i64, u32) = (0, 0);
    for ((revision, index), event) in &store.history {
        let place = format!("event {index} of revision {revision}");
        let kept = *revision >= machine.scrubbed_revision && *revision <= machine.revision;
        ensure(kept, || format!("{place} should not be: {machine:?}"))?;
        let expected = if next.0 == *revision { next.1 } else { 0 };
        ensure(*index == expected || !is_whole(machine, *revision), || {
            format!("{place} comes where event {expected} should be")
        })?;
        next = (*revision, index + 1);
        let own = event.record.as_ref().map(|record| record.mod_revision);
        let wanted = Some(*revision).filter(|_| event.r#type() == EventType::Put);
        ensure(own == wanted, || {
            format!("{place} has a wrong version: {event:?}")
        })?;
        if *revision <= machine.compacted_revision {
            continue;
        }
        let replaced = (event.key.clone(), event.replaced_revision);
        ensure(
            event.replaced_revision == 0 || store.old.contains_key(&replaced),
            || format!("{place} replaced a version that is gone: {event:?}"),
        )?;
        let current = store.current.get(&event.key);
        let alive = current.is_some_and(|current| current.mod_revision == *revision)
            || store.old.contains_key(&(event.key.clone(), *revision));
        ensure(wanted.is_none() || alive, || {
            format!("{place} made a version that is gone: {event:?}")
        })?;
    }
    Ok(())
}

fn invariant_revisions_are_known(store: &Store) -> Result<(), String> {
    let machine = &store.machine;
    // Where two stretches were lost, what is compacted ends with the first, which has no events.
    let after_lost = i64::from(machine.lost_until != 0);
    let oldest = (machine.compacted_revision + after_lost).max(2);
    let lost = machine.lost_after + 1..=machine.lost_until;
    let before = (oldest..=machine.revision).take_while(|revision| !lost.contains(revision));
    let after = oldest.max(machine.lost_until + 1)..=machine.revision;
    for revision in before.chain(after) {
        ensure(store.history.contains_key(&(revision, 0)), || {
            format!("revision {revision} has no events")
        })?;
        ensure(store.revisions.contains_key(&revision), || {
            format!("nothing is known of the commit of revision {revision}")
        })?;
    }
    let mut last_ms = i64::MIN;
    for (revision, known) in &store.revisions {
        let kept = *revision >= machine.scrubbed_revision && *revision <= machine.revision;
        ensure(kept, || {
            format!("the commit of revision {revision} should not be")
        })?;
        ensure(
            known.at_ms >= last_ms && known.at_ms <= machine.time_ms,
            || format!("time goes back at revision {revision}: {known:?} after {last_ms} ms"),
        )?;
        last_ms = known.at_ms;
    }
    Ok(())
}

fn invariant_sessions_count_replies(store: &Store) -> Result<(), String> {
    let mut kept: BTreeMap<i64, (u32, u64)> = BTreeMap::new();
    for ((id, seq), bytes) in &store.replies {
        let (count, sum) = kept.entry(*id).or_default();
        *count += 1;
        *sum += bytes;
        let session = store.sessions.get(id);
        ensure(session.is_some_and(|session| *seq > session.floor), || {
            format!("reply {seq} of session {id} is below its floor: {session:?}")
        })?;
    }
    for (id, session) in &store.sessions {
        let (found, bytes) = kept.get(id).copied().unwrap_or_default();
        let counted = session.kept == found && session.kept_bytes == bytes;
        ensure(counted && found <= SESSION_WINDOW, || {
            format!("session {id} has {found} replies of {bytes} bytes: {session:?}")
        })?;
        ensure(store.leases.contains_key(id), || {
            format!("session {id} has no lease")
        })?;
    }
    Ok(())
}
