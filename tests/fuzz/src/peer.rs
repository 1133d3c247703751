//! Messages of other members, and of the member's own disk: what decodes either becomes something
//! of Raft's or is refused, and what it became says the same on the wire again.

use bytes::Bytes;
use cluster::append::append_request;
use cluster::convert;
use cluster::proto;
use cluster::state_store::meta_from;
use cluster::types::{
    decode, entry_from, entry_to, membership_from, membership_to, stored_membership_from,
    stored_membership_to, vote_from, vote_required, vote_to,
};
use prost::Message;

use crate::draw::Draw;

/// One message, which its first byte names; half of them are drawn, so that they decode.
pub(crate) fn target(data: &[u8]) {
    let mut draw = Draw::new(data);
    let kind = draw.byte() % 8;
    if draw.flag() {
        let message = Bytes::copy_from_slice(draw.rest());
        encoded(kind, &message);
        return;
    }
    match kind {
        0 | 1 => append(proto::AppendRequest {
            vote: (!draw.rarely(8)).then(|| vote(&mut draw)),
            prev: draw.flag().then(|| log_id(&mut draw)),
            entries: (0..draw.below(5)).map(|_| entry(&mut draw)).collect(),
            leader_commit: draw.flag().then(|| log_id(&mut draw)),
        }),
        2 | 3 => same_entry(entry(&mut draw)),
        4 => same_membership(membership(&mut draw)),
        5 => manifest(&proto::SnapshotManifest {
            last_log_id: draw.flag().then(|| log_id(&mut draw)),
            membership: (!draw.rarely(8)).then(|| stored_membership(&mut draw)),
            files: Vec::new(),
            id: draw.text(8),
        }),
        6 => failures(&proto::Failure {
            kind: i32::from(draw.byte() % 12),
            detail: draw.text(8),
            found: draw.number(4),
            limit: draw.number(4),
        }),
        _ => member_failures(proto::MembershipFailure {
            kind: i32::from(draw.byte() % 12),
            text: draw.text(8),
            id: draw.number(4),
            numbers: (0..draw.below(4)).map(|_| draw.number(4)).collect(),
            address: draw.text(8),
        }),
    }
}

fn encoded(kind: u8, message: &Bytes) {
    match kind {
        0 => read(message, append),
        1 => read(message, same_entry),
        2 => read(message, same_membership),
        3 => read(message, |read| manifest(&read)),
        4 => read(message, |read| failures(&read)),
        5 => read(message, member_failures),
        6 => read(message, |read: proto::VoteRequest| {
            if let Ok(vote) = vote_required("vote request", read.vote.as_ref()) {
                assert_eq!(vote_from(&vote_to(&vote)), Ok(vote));
                let _ = vote
                    .leader_id
                    .term
                    .checked_add(1)
                    .expect("a term has a next one");
            }
        }),
        _ => {
            read(message, |read: proto::MembershipRequest| {
                use proto::membership_request::Change;
                if let Some(Change::Add(node) | Change::Join(node)) = read.change {
                    let _ = convert::new_member_from(node);
                }
            });
            read(message, drop::<proto::AppendResponse>);
            read(message, drop::<proto::VoteResponse>);
            read(message, drop::<proto::TransferLeaderResponse>);
            read(message, drop::<proto::SnapshotChunk>);
            read(message, drop::<proto::FoundRequest>);
            read(message, drop::<proto::HelloResponse>);
        }
    }
}

fn read<M: Message + Default>(message: &Bytes, then: impl FnOnce(M)) {
    match decode("message", message.clone()) {
        Ok(message) => then(message),
        Err(error) => assert!(error.to_string().starts_with("message is not decodable")),
    }
}

/// What reaches Raft has no hole and a leader's vote.
fn append(request: proto::AppendRequest) {
    let Ok(request) = append_request(request) else {
        return;
    };
    assert!(request.vote.committed);
    let mut last = request.prev_log_id;
    for entry in &request.entries {
        assert!(Some(entry.log_id) > last, "{} after {last:?}", entry.log_id);
        let next = last.map_or(0, |last| last.index() + 1);
        assert_eq!(entry.log_id.index(), next);
        last = Some(entry.log_id);
    }
}

fn same_entry(wire: proto::Entry) {
    if let Ok(entry) = entry_from(wire) {
        let again = entry_from(entry_to(&entry)).expect("its own words");
        assert_eq!(again.log_id, entry.log_id);
        assert_eq!(again.payload, entry.payload);
        // What of the log has no index after it cannot be counted with.
        let _ = entry
            .log_id
            .index()
            .checked_add(1)
            .expect("an index has a next one");
    }
}

fn same_membership(wire: proto::Membership) {
    if let Ok(membership) = membership_from(wire) {
        let again = membership_from(membership_to(&membership));
        assert_eq!(again.as_ref(), Ok(&membership));
        let known: Vec<u64> = membership.nodes().map(|(id, _)| *id).collect();
        assert!(membership.voter_ids().all(|id| known.contains(&id)));
    }
}

fn manifest(manifest: &proto::SnapshotManifest) {
    if let Ok(meta) = meta_from(manifest) {
        let stored = meta.last_membership;
        let again = stored_membership_from(stored_membership_to(&stored));
        assert_eq!(again, Ok(stored));
    }
}

fn failures(failure: &proto::Failure) {
    assert!(!convert::propose_error(failure).to_string().is_empty());
    assert!(!convert::read_error(failure).to_string().is_empty());
    // What the other member's service says is its own affair: it may be nothing.
    let _ = convert::call_error(failure).to_string();
}

fn member_failures(failure: proto::MembershipFailure) {
    let error = convert::membership_error(failure);
    assert!(!error.to_string().is_empty());
    let again = convert::membership_error(convert::membership_failure(&error));
    assert_eq!(again.to_string(), error.to_string());
}

pub(crate) fn log_id(draw: &mut Draw<'_>) -> proto::LogId {
    proto::LogId {
        term: draw.number(3),
        index: draw.number(6),
    }
}

pub(crate) fn vote(draw: &mut Draw<'_>) -> proto::Vote {
    proto::Vote {
        term: draw.number(4),
        node_id: draw.number(4),
        committed: !draw.rarely(8),
    }
}

pub(crate) fn membership(draw: &mut Draw<'_>) -> proto::Membership {
    proto::Membership {
        voters: (0..draw.below(3))
            .map(|_| proto::VoterSet {
                ids: (0..draw.below(4)).map(|_| draw.number(4)).collect(),
            })
            .collect(),
        nodes: (0..draw.below(5))
            .map(|id| proto::Node {
                id: if draw.rarely(8) { draw.number(4) } else { id },
                name: draw.text(2),
                ..proto::Node::default()
            })
            .collect(),
    }
}

pub(crate) fn stored_membership(draw: &mut Draw<'_>) -> proto::StoredMembership {
    proto::StoredMembership {
        log_id: draw.flag().then(|| log_id(draw)),
        membership: (!draw.rarely(8)).then(|| membership(draw)),
    }
}

pub(crate) fn entry(draw: &mut Draw<'_>) -> proto::Entry {
    use proto::entry::Payload;
    let payload = match draw.below(8) {
        0 => None,
        1 | 2 => Some(Payload::Membership(membership(draw))),
        3 => Some(Payload::Blank(proto::Blank {})),
        _ => Some(Payload::Command(Bytes::copy_from_slice(draw.bytes(8)))),
    };
    proto::Entry {
        log_id: (!draw.rarely(8)).then(|| log_id(draw)),
        payload,
    }
}
