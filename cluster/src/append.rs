//! What a leader sends, checked before Raft sees it: Raft takes it without a further question.

use openraft::raft::AppendEntriesRequest;

use crate::proto;
use crate::types::{DecodeError, Entry, Types, Vote, entry_from, log_id_optional, vote_required};

/// The vote of a sender that must lead: Raft takes what it sends without a further question.
pub(crate) fn leader_vote(
    what: &'static str,
    vote: Option<&proto::Vote>,
) -> Result<Vote, DecodeError> {
    let vote = vote_required(what, vote)?;
    if vote.committed {
        return Ok(vote);
    }
    let why = format!("its sender does not lead: {vote}");
    Err(DecodeError::Malformed { what, why })
}

/// From the wire. Entries that do not follow each other would leave a hole in the log, and Raft
/// relies on the sender for that.
pub fn append_request(
    request: proto::AppendRequest,
) -> Result<AppendEntriesRequest<Types>, DecodeError> {
    let entries: Result<Vec<Entry>, DecodeError> =
        request.entries.into_iter().map(entry_from).collect();
    let entries = entries?;
    let prev_log_id = log_id_optional(request.prev.as_ref())?;
    let mut last = prev_log_id;
    for entry in &entries {
        let next = last.map_or(Some(0), |last| last.index().checked_add(1));
        if Some(entry.log_id.index()) != next || Some(entry.log_id) <= last {
            let last = last.map_or_else(|| "nothing".to_owned(), |last| last.to_string());
            return Err(DecodeError::Malformed {
                what: "append request",
                why: format!("entry {} does not follow {last}", entry.log_id),
            });
        }
        last = Some(entry.log_id);
    }
    Ok(AppendEntriesRequest {
        vote: leader_vote("append request", request.vote.as_ref())?,
        prev_log_id,
        entries,
        leader_commit: log_id_optional(request.leader_commit.as_ref())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> proto::LogId {
        proto::LogId { term, index }
    }

    fn request(prev: Option<proto::LogId>, entries: &[proto::LogId]) -> proto::AppendRequest {
        let entries = entries.iter().map(|log_id| proto::Entry {
            log_id: Some(*log_id),
            payload: Some(proto::entry::Payload::Blank(proto::Blank {})),
        });
        let vote = proto::Vote {
            term: 9,
            node_id: 1,
            committed: true,
        };
        proto::AppendRequest {
            vote: Some(vote),
            prev,
            entries: entries.collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn append_of_a_sender_that_does_not_lead_is_malformed() {
        let mut append = request(None, &[]);
        if let Some(vote) = &mut append.vote {
            vote.committed = false;
        }
        let refused = append_request(append).expect_err("a candidate's vote");
        assert!(refused.to_string().contains("does not lead"), "{refused}");
        let refused = append_request(proto::AppendRequest::default());
        assert!(refused.is_err(), "no vote at all");
    }

    #[test]
    fn append_whose_entries_do_not_follow_each_other_is_malformed() {
        let good = [
            request(None, &[at(0, 0), at(1, 1), at(3, 2)]),
            request(Some(at(1, 4)), &[at(1, 5)]),
            request(Some(at(1, 4)), &[]),
        ];
        for request in good {
            assert!(append_request(request).is_ok());
        }
        let bad = [
            request(None, &[at(1, 1)]),
            request(Some(at(1, 4)), &[at(1, 6)]),
            request(Some(at(1, 4)), &[at(1, 5), at(1, 5)]),
            request(Some(at(2, 4)), &[at(1, 5)]),
        ];
        for request in bad {
            let refused = append_request(request).expect_err("a hole");
            assert!(refused.to_string().contains("does not follow"), "{refused}");
        }
    }

    #[test]
    fn append_that_names_an_index_or_a_term_with_none_after_it_is_malformed() {
        let last = at(1, u64::MAX);
        let mut committed = request(None, &[]);
        committed.leader_commit = Some(last);
        let mut last_term = request(None, &[]);
        last_term.vote.get_or_insert_default().term = u64::MAX;
        let bad = [
            committed,
            last_term,
            request(Some(last), &[]),
            request(Some(last), &[at(1, 0)]),
            request(Some(at(1, u64::MAX - 1)), &[last]),
        ];
        for request in bad {
            let refused = append_request(request).expect_err("an index too far");
            assert!(refused.to_string().contains("none after it"), "{refused}");
        }
    }
}
