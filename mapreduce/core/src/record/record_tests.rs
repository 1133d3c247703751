//! The stored form, byte by byte, and what is refused.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::limits::{COUNTERS_MAX, OUTPUTS_MAX};

fn attempt(epoch: u64, counter: u64) -> AttemptId {
    AttemptId {
        epoch: Epoch(epoch),
        counter,
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("text takes it");
    }
    text
}

fn golden(record: Record, expect: Expect) {
    let epoch = Epoch(300);
    let records = vec![record];
    let batch = Batch { epoch, records };
    let bytes = batch.encode();
    expect.assert_eq(&hex(&bytes));
    assert_eq!(Batch::decode(&bytes), Ok(batch));
}

fn won() -> TaskWon {
    TaskWon {
        task: TaskId::map(123_456),
        attempt: attempt(4_000_000, 150_000),
        incarnation: Incarnation(3_999_000),
        outputs: vec![Output {
            name: String::new(),
            length: 64 << 20,
            checksum: 0x0123_4567_89ab_cdef,
        }],
        content: 0xfedc_ba98_7654_3210,
        inputs: 0,
        counters: Counters {
            builtin: [600_000, 64 << 20, 90_000, 30 << 20, 0, 510_000, 0],
            user: vec![(0, 17)],
        },
    }
}

#[test]
fn a_winner_is_stored_in_about_a_hundred_bytes() {
    let record = Record::Won(Box::new(won()));
    assert!(record.encoded_len() < 100, "{} bytes", record.encoded_len());
    golden(
        record,
        expect![
            "080110ac021a470a450880890f108092f40118f0930920988af401291032547698badcfe3a0e108080802019efcdab89674523014212c0cf248080802090bf058080800f00b0901f4a0100520111"
        ],
    );
}

#[test]
fn the_other_records_are_stored_so() {
    let task = TaskId::reduce(5);
    let first = attempt(300, 7);
    golden(
        Record::Revoked {
            task: TaskId::map(5),
            attempt: first,
            reason: RevokeReason::FetchFailed,
        },
        expect!["080110ac021a0b1209080a10ac0218072002"],
    );
    golden(
        Record::Failed {
            task,
            attempt: first,
            class: FailureClass::BadRecord,
            message: "no".to_owned(),
            position: Some(0),
        },
        expect!["080110ac021a111a0f080b10ac02180720022a026e6f3000"],
    );
    golden(
        Record::Skipped {
            task,
            first: 9,
            count: 2,
        },
        expect!["080110ac021a082206080b10091802"],
    );
    golden(
        Record::CounterName {
            id: 3,
            name: "words".to_owned(),
        },
        expect!["080110ac021a0b2a0908031205776f726473"],
    );
    golden(Record::Done, expect!["080110ac021a023200"]);
    golden(
        Record::JobFailed(JobFailure {
            kind: JobFailureKind::NonDeterministic,
            task: Some(TaskId::map(0)),
            message: "m".to_owned(),
        }),
        expect!["080110ac021a093a07080410001a016d"],
    );
}

#[test]
fn a_header_is_stored_so() {
    let header = Header {
        spec_digest: [7; 32],
        maps: 200_000,
        reduces: 5_000,
        status: JobStatus::Running,
    };
    let bytes = header.encode();
    expect![
        "08011220070707070707070707070707070707070707070707070707070707070707070718c09a0c2088272801"
    ]
    .assert_eq(&hex(&bytes));
    assert_eq!(Header::decode(&bytes), Ok(header.clone()));
    for status in [JobStatus::Done, JobStatus::Cancelled] {
        let header = Header {
            status,
            ..header.clone()
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }
}

#[test]
fn later_formats_kinds_and_numbers_out_of_bounds_are_refused() {
    let later = [0x08, 0x02];
    assert_eq!(Batch::decode(&later), Err(DecodeError::Format { found: 2 }));
    assert_eq!(
        Header::decode(&later),
        Err(DecodeError::Format { found: 2 })
    );
    // Kind 15 of a record.
    let unknown = [0x08, 0x01, 0x10, 0x01, 0x1a, 0x02, 0x7a, 0x00];
    assert_eq!(
        Batch::decode(&unknown),
        Err(DecodeError::Unknown("a record's kind"))
    );
    let empty = [0x08, 0x01, 0x10, 0x01];
    assert_eq!(Batch::decode(&empty), Err(DecodeError::Unknown("a record")));
    let mut many = won();
    many.outputs = vec![Output::default(); OUTPUTS_MAX + 1];
    let mut counters = won();
    counters.counters.user = vec![(0, 1); COUNTERS_MAX + 1];
    for won in [many, counters] {
        let batch = Batch {
            epoch: Epoch(1),
            records: vec![Record::Won(Box::new(won))],
        };
        let refused = Batch::decode(&batch.encode());
        assert!(
            matches!(refused, Err(DecodeError::Bound { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_message_is_cut_at_the_end_of_a_character() {
    assert_eq!(bounded("aé", 2), "a");
    assert_eq!(bounded("aé", 3), "aé");
    assert_eq!(bounded("", 3), "");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Batch::decode(&bytes);
        let _ = Header::decode(&bytes);
    }

    #[test]
    fn a_changed_byte_is_read_or_refused(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let batch = Batch { epoch: Epoch(9), records: vec![Record::Won(Box::new(won())), Record::Done] };
        let mut bytes = batch.encode();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(batch) = Batch::decode(&bytes) {
            // What is read is within bounds: it can be written and read again.
            prop_assert_eq!(Batch::decode(&batch.encode()), Ok(batch));
        }
    }
}
