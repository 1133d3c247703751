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
//! - at most [`SESSION_WINDOW`] replies are kept; their count is in the session's record.
//! - session and replies end with the lease. Lease ids are drawn at random, so that an id is not
//!   granted again while an old request of it is still on its way.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::{Command, Refusal, Reply, SessionRecord};
use cluster_core::store::{Direction, KeyRange, Overlay, View};
use prost::Message;

use crate::limits::{REPLY_BYTES_MAX, SESSION_WINDOW};
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
        record.kept = record.kept.saturating_sub(forget(state, id, ack)?);
        record.floor = ack;
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

/// Removes the replies up to number `ack`; returns how many there were.
fn forget(state: &mut Overlay<'_>, id: i64, ack: u64) -> io::Result<u32> {
    let doomed = keys(
        state,
        &KeyRange {
            start: tables::reply(id, 0),
            end: match ack.checked_add(1) {
                Some(end) => Some(tables::reply(id, end)),
                None => tables::replies(id).end,
            },
        },
    )?;
    let count = u32::try_from(doomed.len()).unwrap_or(u32::MAX);
    for key in doomed {
        state.delete(key);
    }
    Ok(count)
}

/// Keeps the reply to a request, unless it has ended its own session.
pub(crate) fn keep(state: &mut Overlay<'_>, ticket: Ticket, reply: &Bytes) -> io::Result<()> {
    let Ticket { session, seq } = ticket;
    if state.get(&tables::lease(session))?.is_none() {
        return Ok(());
    }
    let stored = tables::session(session);
    let mut record: SessionRecord = tables::get(state, &stored)?.unwrap_or_default();
    record.kept += 1;
    state.put(stored, record.encode_to_vec());
    let kept = if reply.len() > REPLY_BYTES_MAX {
        too_large(reply)?
    } else {
        reply.clone()
    };
    state.put(tables::reply(session, seq), kept);
    Ok(())
}

/// What a retry is told instead of a reply that is too large to be kept.
fn too_large(reply: &Bytes) -> io::Result<Bytes> {
    let Reply { revision, .. } = Reply::decode(reply.clone()).map_err(io::Error::other)?;
    let detail = format!(
        "the request was executed at revision {revision}; its answer of {} bytes is over the \
         {REPLY_BYTES_MAX} bytes that are kept",
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
        for key in keys(state, &tables::replies(id))? {
            state.delete(key);
        }
        state.delete(stored);
    }
    Ok(())
}

fn keys(view: &dyn View, range: &KeyRange) -> io::Result<Vec<Bytes>> {
    let mut found = Vec::new();
    view.scan(range, Direction::Ascending, &mut |key, _| {
        found.push(Bytes::copy_from_slice(key));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}
