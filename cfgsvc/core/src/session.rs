//! Exactly once: a session is a lease; the reply to each of its requests is kept until the client
//! has acknowledged it.
//!
//! ```text
//!  1 ........ floor | floor+1 ............................. floor+k
//!  too old, refused | kept: answered again from the store    not seen yet: executed
//! ```
//!
//! Invariants
//! - the floor never goes back, so a request number is executed at most once in a lease's life.
//! - at most [`SESSION_WINDOW`] replies of about [`SESSION_BYTES_MAX`] bytes are kept; count and
//!   bytes are in the session's record.
//! - session and replies end with the lease. Lease ids are drawn at random, so that an id is not
//!   granted again while an old request of it is still on its way.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::{Command, Refusal, Reply, SessionRecord};
use cluster_core::store::{Direction, KeyRange, Overlay, View};
use prost::Message;

use crate::limits::{REPLY_BYTES_MAX, SESSION_BYTES_MAX, SESSION_WINDOW, SMALL_REPLY_BYTES};
use crate::refusal::{Code, refuse};
use crate::tables;

/// The id of a request that is executed for the first time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    session: i64,
    seq: u64,
}

/// What becomes of a request with an id.
pub(crate) enum Admission {
    /// It is new: execute it, then [`keep`] its reply.
    Execute(Ticket),
    /// It was executed; this was the reply.
    Replay(Bytes),
    /// It is not executed.
    Refuse(Refusal),
}

/// Takes the client's acknowledgement and says what becomes of the request.
pub(crate) fn admit(state: &mut Overlay<'_>, command: &Command) -> io::Result<Admission> {
    let (id, seq, ack) = (command.session, command.seq, command.ack);
    if state.get(&tables::lease(id))?.is_none() {
        let detail = format!("session {id:x} has no lease");
        return Ok(Admission::Refuse(refuse(Code::SessionNotFound, detail)));
    }
    if ack >= seq {
        let detail = format!("request {seq} acknowledges request {ack}, which is not before it");
        return Ok(Admission::Refuse(refuse(Code::InvalidCommand, detail)));
    }
    let stored = tables::session(id);
    let mut record: SessionRecord = tables::get(state, &stored)?.unwrap_or_default();
    if ack > record.floor {
        forget(state, id, &mut record, ack)?;
        state.put(stored, record.encode_to_vec());
    }
    if seq <= record.floor {
        let detail = format!("request {seq}, replies are kept from {}", record.floor + 1);
        return Ok(Admission::Refuse(refuse(Code::RequestTooOld, detail)));
    }
    if let Some(reply) = state.get(&tables::reply(id, seq))? {
        return Ok(Admission::Replay(reply));
    }
    if record.kept >= SESSION_WINDOW {
        let detail = format!("{} replies wait, at most {SESSION_WINDOW}", record.kept);
        return Ok(Admission::Refuse(refuse(Code::SessionWindowFull, detail)));
    }
    Ok(Admission::Execute(Ticket { session: id, seq }))
}

/// Raises the floor to `ack`, which is above it, and removes the replies up to there.
fn forget(
    state: &mut Overlay<'_>,
    id: i64,
    record: &mut SessionRecord,
    ack: u64,
) -> io::Result<()> {
    let doomed = kept(
        state,
        &KeyRange {
            // From the floor on, not from 0: what was removed below it may still cost a scan.
            start: tables::reply(id, record.floor + 1),
            end: match ack.checked_add(1) {
                Some(end) => Some(tables::reply(id, end)),
                None => tables::replies(id).end,
            },
        },
    )?;
    for (key, bytes) in doomed {
        state.delete(key);
        record.kept = record.kept.saturating_sub(1);
        record.kept_bytes = record.kept_bytes.saturating_sub(bytes);
    }
    record.floor = ack;
    Ok(())
}

/// Keeps the reply to a request, unless it has ended its own session.
pub(crate) fn keep(state: &mut Overlay<'_>, ticket: Ticket, reply: &Bytes) -> io::Result<()> {
    let Ticket { session, seq } = ticket;
    if state.get(&tables::lease(session))?.is_none() {
        return Ok(());
    }
    let stored = tables::session(session);
    let mut record: SessionRecord = tables::get(state, &stored)?.unwrap_or_default();
    let bytes = reply.len();
    let is_small = bytes <= SMALL_REPLY_BYTES;
    let fits = bytes <= REPLY_BYTES_MAX && record.kept_bytes + bytes as u64 <= SESSION_BYTES_MAX;
    let kept = if is_small || fits {
        reply.clone()
    } else {
        too_large(reply)?
    };
    record.kept += 1;
    record.kept_bytes += kept.len() as u64;
    state.put(stored, record.encode_to_vec());
    state.put(tables::reply(session, seq), kept);
    Ok(())
}

/// What a retry is told instead of a reply that is too large to be kept.
fn too_large(reply: &Bytes) -> io::Result<Bytes> {
    let Reply { revision, .. } = Reply::decode(reply.clone()).map_err(io::Error::other)?;
    let detail = format!(
        "the request was executed at revision {revision}; its answer of {} bytes is not kept: at \
         most {REPLY_BYTES_MAX} bytes of one, {SESSION_BYTES_MAX} bytes of all that wait",
        reply.len()
    );
    let told = Reply {
        revision,
        result: Some(Outcome::Refusal(refuse(Code::RequestTooOld, detail))),
    };
    Ok(told.encode_to_vec().into())
}

/// Removes all of a session; its lease has ended.
pub(crate) fn end(state: &mut Overlay<'_>, id: i64) -> io::Result<()> {
    let stored = tables::session(id);
    if state.get(&stored)?.is_some() {
        for (key, _) in kept(state, &tables::replies(id))? {
            state.delete(key);
        }
        state.delete(stored);
    }
    Ok(())
}

/// Keys of the replies in a range, each with the bytes of the reply.
fn kept(view: &dyn View, range: &KeyRange) -> io::Result<Vec<(Bytes, u64)>> {
    let mut found = Vec::new();
    view.scan(range, Direction::Ascending, &mut |key, reply| {
        found.push((Bytes::copy_from_slice(key), reply.len() as u64));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}
