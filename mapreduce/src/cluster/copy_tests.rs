//! What a copy keeps of jobs that have ended.

use super::*;
use crate::cluster::keys::key;
use mapreduce_core::names::Phase;

fn put(key: &str, value: Vec<u8>) -> Event {
    Event {
        kind: EventKind::Put,
        kv: KeyValue {
            key: key.to_owned().into(),
            value: value.into(),
            create_revision: 7,
            ..KeyValue::default()
        },
        previous: None,
    }
}

fn header(status: JobStatus) -> Event {
    let header = Header {
        spec_digest: [0; 32],
        maps: 3,
        reduces: 1,
        status,
    };
    put(&key("job", Part::Header), header.encode())
}

fn batch(sequence: u64) -> Event {
    let epoch = mapreduce_core::names::Epoch(2);
    let records = vec![Record::CounterName {
        id: u32::try_from(sequence - 1).expect("a few"),
        name: "n".to_owned(),
    }];
    let value = Batch { epoch, records }.encode();
    put(&key("job", Part::Log(sequence)), value)
}

fn output(settled: bool) -> Event {
    let destination = Destination {
        settled,
        ..Destination::default()
    };
    let value = serde_json::to_vec(&destination).expect("it is written");
    put(&key("job", Part::Output), value)
}

#[test]
fn tasks_of_a_job_that_has_ended_are_kept_as_long_as_they_are_needed() {
    let all = [Ended::Kept, Ended::UntilSettled, Ended::Forgotten];
    let counts = |events: &[fn() -> Event]| {
        all.map(|ended| {
            let mut copy = Copy::keeping(ended);
            for event in events {
                copy.apply(vec![event()]);
            }
            let job = copy.jobs.get("job").expect("it is there");
            assert_eq!(job.damage, None);
            job.state.count(Phase::Map)
        })
    };
    let running: [fn() -> Event; 3] =
        [|| header(JobStatus::Running), || batch(1), || output(false)];
    assert_eq!(counts(&running), [3, 3, 3]);
    // The last batch comes with the header, whichever is seen first.
    let ended: [fn() -> Event; 5] = [
        running[0],
        running[1],
        running[2],
        || header(JobStatus::Done),
        || batch(2),
    ];
    assert_eq!(counts(&ended), [3, 3, 0]);
    let settled: Vec<fn() -> Event> = [&ended[..], &[|| output(true)]].concat();
    assert_eq!(counts(&settled), [3, 0, 0]);
}
