//! The cursor against a small model of a member: history, batches, fragments, breaks, compaction.

use super::*;
use cfgsvc_proto::etcd::ResponseHeader;
use proptest::prelude::*;

fn put(revision: i64, place: usize) -> kv::Event {
    kv::Event {
        kv: Some(kv::KeyValue {
            key: format!("k{place}").into(),
            mod_revision: revision,
            ..kv::KeyValue::default()
        }),
        ..kv::Event::default()
    }
}

fn response(revision: i64, events: Vec<kv::Event>, fragment: bool) -> WatchResponse {
    WatchResponse {
        header: Some(ResponseHeader {
            revision,
            ..ResponseHeader::default()
        }),
        events,
        fragment,
        ..WatchResponse::default()
    }
}

fn created(revision: i64) -> WatchResponse {
    WatchResponse {
        created: true,
        ..response(revision, Vec::new(), false)
    }
}

/// What the member does next.
#[derive(Clone, Debug)]
enum Act {
    /// Commits a revision: with this many events that match the watch, perhaps none.
    Commit(usize),
    /// Sends this many revisions in one response, cut into pieces of this many events.
    Send(usize, usize),
    /// Says how far it is.
    Progress,
    /// The stream breaks, after this many pieces of a response were sent.
    Break(usize),
    /// Forgets what is older than this share of its history, in percent.
    Compact(i64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let one = prop_oneof![
        4 => (0_usize..4).prop_map(Act::Commit),
        4 => (1_usize..4, 1_usize..4).prop_map(|(revisions, piece)| Act::Send(revisions, piece)),
        2 => Just(Act::Progress),
        2 => (0_usize..4).prop_map(Act::Break),
        1 => (0_i64..100).prop_map(Act::Compact),
    ];
    prop::collection::vec(one, 1..80)
}

/// The member and one stream of it.
struct Member {
    /// Events of each revision from 2 on; revision 1 is the empty store.
    history: Vec<Vec<kv::Event>>,
    compacted: i64,
    /// The stream has sent everything before this revision.
    sent: i64,
}

impl Member {
    fn revision(&self) -> i64 {
        1 + self.history.len() as i64
    }

    fn events(&self, revision: i64) -> &[kv::Event] {
        usize::try_from(revision - 2)
            .ok()
            .and_then(|index| self.history.get(index))
            .map_or(&[], Vec::as_slice)
    }

    /// Opens a stream; what the member answers at once.
    fn open(&mut self, start: i64) -> Vec<WatchResponse> {
        self.sent = if start == 0 {
            self.revision() + 1
        } else {
            start
        };
        let mut answers = vec![created(self.revision())];
        if self.sent < self.compacted {
            answers.push(WatchResponse {
                canceled: true,
                compact_revision: self.compacted,
                ..WatchResponse::default()
            });
        }
        answers
    }

    fn pieces(&mut self, revisions: usize, piece: usize) -> Vec<WatchResponse> {
        let end = (self.sent + revisions as i64).min(self.revision() + 1);
        let events: Vec<kv::Event> = (self.sent..end)
            .flat_map(|revision| self.events(revision).to_vec())
            .collect();
        self.sent = self.sent.max(end);
        let count = events.len().div_ceil(piece);
        let revision = self.revision();
        let pieces = events.chunks(piece).enumerate();
        pieces
            .map(|(index, part)| response(revision, part.to_vec(), index + 1 < count))
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_gap_no_duplicate_and_whole_revisions_whatever_the_member_does(
        list in acts(), start in 0_i64..4,
    ) {
        let mut member = Member { history: Vec::new(), compacted: 0, sent: 0 };
        let mut cursor = Cursor::new(start);
        // The first revision that the user must see, and the next one.
        let first = if start == 0 { 2 } else { start };
        let mut expected = first;
        let mut inbox = member.open(cursor.resume());
        for act in list.into_iter().chain([Act::Send(usize::MAX / 2, 2)]) {
            match act {
                Act::Commit(count) => {
                    let revision = member.revision() + 1;
                    member.history.push((0..count).map(|place| put(revision, place)).collect());
                }
                Act::Send(revisions, piece) => {
                    inbox.extend(member.pieces(revisions.min(1000), piece));
                }
                Act::Progress if member.sent > member.revision() => {
                    inbox.push(response(member.revision(), Vec::new(), false));
                }
                Act::Progress => {}
                Act::Break(pieces) => {
                    let cut: Vec<_> = member.pieces(3, 1).into_iter().take(pieces).collect();
                    inbox.extend(cut);
                    for response in inbox.drain(..) {
                        if !take(&mut cursor, response, &member, &mut expected)? {
                            return Ok(());
                        }
                    }
                    inbox = member.open(cursor.resume());
                }
                Act::Compact(percent) => {
                    member.compacted = member.compacted.max(member.revision() * percent / 100);
                }
            }
            for response in inbox.drain(..) {
                if !take(&mut cursor, response, &member, &mut expected)? {
                    return Ok(());
                }
            }
        }
        for revision in expected..=member.revision() {
            prop_assert!(member.events(revision).is_empty(), "r{} is missing", revision);
        }
    }
}

/// Feeds one response; false when the watch is over.
fn take(
    cursor: &mut Cursor,
    response: WatchResponse,
    member: &Member,
    expected: &mut i64,
) -> Result<bool, TestCaseError> {
    for step in cursor.accept(response) {
        match step {
            Step::Deliver(item) => {
                for skipped in *expected..item.revision {
                    prop_assert!(member.events(skipped).is_empty(), "r{} is skipped", skipped);
                }
                prop_assert!(item.revision >= *expected, "r{} comes again", item.revision);
                prop_assert_eq!(item.events.len(), member.events(item.revision).len());
                *expected = item.revision + 1;
            }
            Step::Progress(revision) => {
                for skipped in *expected..=revision {
                    prop_assert!(
                        member.events(skipped).is_empty(),
                        "r{} was not sent",
                        skipped
                    );
                }
                *expected = (*expected).max(revision + 1);
            }
            Step::Created => {}
            Step::Compacted {
                resume_revision,
                compact_revision,
            } => {
                prop_assert_eq!(compact_revision, member.compacted);
                prop_assert!(resume_revision < compact_revision);
                prop_assert!(resume_revision >= *expected || resume_revision == 0);
                return Ok(false);
            }
            Step::Retry(text) | Step::Cancelled(text) | Step::OutOfOrder(text) => {
                return Err(TestCaseError::fail(text));
            }
        }
    }
    Ok(true)
}

#[test]
fn a_revision_that_comes_again_is_a_violation() {
    let mut cursor = Cursor::new(5);
    cursor.accept(created(9));
    assert_eq!(cursor.accept(response(9, vec![put(5, 0)], false)).len(), 1);
    let again = cursor.accept(response(9, vec![put(5, 0)], false));
    assert_eq!(again, [Step::OutOfOrder("revision 5 comes after 5".into())]);
}

#[test]
fn a_watch_of_the_future_hears_nothing_new_from_earlier_progress() {
    let mut cursor = Cursor::new(100);
    cursor.accept(created(9));
    assert_eq!(
        cursor.accept(response(50, Vec::new(), false)),
        [Step::Progress(99)]
    );
    assert_eq!(cursor.resume(), 100);
}

#[test]
fn a_watch_does_not_go_on_in_another_group() {
    let of = |cluster_id, response: WatchResponse| WatchResponse {
        header: response.header.map(|header| ResponseHeader {
            cluster_id,
            ..header
        }),
        ..response
    };
    let mut cursor = Cursor::new(0);
    assert_eq!(cursor.accept(of(0xa, created(9))), [Step::Created]);
    assert_eq!(
        cursor
            .accept(of(0xa, response(10, vec![put(10, 0)], false)))
            .len(),
        1
    );
    assert_eq!(cursor.resume(), 11);
    // Restored at revision 8, then changed until revision 12.
    assert_eq!(
        cursor.accept(of(0xb, created(12))),
        [Step::Cancelled(
            "another group answers: cluster b, the watch began in a".into()
        )]
    );
}

#[test]
fn a_cancellation_for_compaction_tells_no_revision_that_the_member_did_not_tell() {
    let mut cursor = Cursor::new(5);
    let canceled = WatchResponse {
        canceled: true,
        cancel_reason: "etcdserver: mvcc: required revision has been compacted".into(),
        ..WatchResponse::default()
    };
    let compacted = Step::Compacted {
        resume_revision: 5,
        compact_revision: 0,
    };
    assert_eq!(cursor.accept(canceled), [compacted]);
}

#[test]
fn revision_that_cannot_be_is_out_of_order_and_moves_nothing() {
    let answers = [
        response(9, vec![put(i64::MAX, 0)], false),
        response(i64::MAX, Vec::new(), false),
        created(i64::MAX),
        created(-2),
        response(-2, Vec::new(), false),
        response(9, vec![put(-2, 0)], false),
    ];
    for answer in answers {
        let mut cursor = Cursor::new(0);
        let steps = cursor.accept(answer);
        assert!(matches!(steps[..], [Step::OutOfOrder(_)]), "{steps:?}");
        assert_eq!(cursor.resume(), 0);
    }
}
