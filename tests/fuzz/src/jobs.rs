//! Jobs of MapReduce: what the group has of them, and map outputs of other workers.

use mapreduce_core::job::JobState;
use mapreduce_core::names::{AttemptId, Epoch, Incarnation, TaskId};
use mapreduce_core::plan::SplitList;
use mapreduce_core::record::{
    Batch, Counters, FailureClass, Header, JobFailure, JobFailureKind, Output, Record,
    RevokeReason, TaskWon,
};
use mapreduce_core::spec::JobSpec;
use mapreduce_data::block::Compression;
use mapreduce_data::merge::Cursor as _;
use mapreduce_data::run::{Region, RegionReader, RunWriter, check, index_length, read_index};

use crate::draw::Draw;

/// Partitions of a drawn run.
const PARTITIONS: u32 = 4;

/// The parts of a job as any octets: refused, or the same when written again. A drawn log: what the
/// fold takes keeps its books.
pub(crate) fn records(data: &[u8]) {
    let mut draw = Draw::new(data);
    match draw.below(6) {
        0 => again(draw.rest(), Header::decode, Header::encode),
        1 => again(draw.rest(), Batch::decode, Batch::encode),
        2 => {
            let read = |octets: &[u8]| JobSpec::from_json(octets);
            let write = |spec: &JobSpec| spec.to_json().expect("what was read is within bounds");
            again(draw.rest(), read, write);
        }
        3 => match SplitList::from_chunks(&[draw.rest().to_vec()]) {
            Ok(list) => assert_eq!(SplitList::from_chunks(&list.chunks()), Ok(list)),
            Err(error) => assert!(!error.to_string().is_empty()),
        },
        _ => log(&mut draw),
    }
}

fn again<T: std::fmt::Debug + PartialEq, E: std::fmt::Display>(
    octets: &[u8],
    read: impl Fn(&[u8]) -> Result<T, E>,
    write: impl Fn(&T) -> Vec<u8>,
) {
    match read(octets) {
        Ok(found) => {
            let written = write(&found);
            match read(&written) {
                Ok(same) => assert_eq!(same, found),
                Err(error) => panic!("what was read is refused when it is written: {error}"),
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn log(draw: &mut Draw<'_>) {
    let maps = draw.number_u32(4).min(8);
    let reduces = draw.number_u32(3).min(8);
    let mut state = JobState::new(maps, reduces);
    for sequence in 1..=draw.below(24) {
        let batch = Batch {
            epoch: Epoch(draw.number(3)),
            records: (0..=draw.below(3)).map(|_| record(draw)).collect(),
        };
        let octets = batch.encode();
        let Ok(read) = Batch::decode(&octets) else {
            return;
        };
        assert_eq!(read, batch, "what is stored is what was meant");
        if state.apply(sequence, &batch).is_err() {
            return;
        }
        state.check();
    }
}

fn task(draw: &mut Draw<'_>) -> TaskId {
    let index = draw.number_u32(4);
    if draw.flag() {
        TaskId::map(index)
    } else {
        TaskId::reduce(index)
    }
}

fn attempt(draw: &mut Draw<'_>) -> AttemptId {
    AttemptId {
        epoch: Epoch(draw.number(3)),
        counter: draw.number(5),
    }
}

fn record(draw: &mut Draw<'_>) -> Record {
    let task = task(draw);
    let attempt = attempt(draw);
    match draw.below(12) {
        0 => Record::Revoked {
            task,
            attempt,
            reason: RevokeReason::FetchFailed,
        },
        1 => Record::Failed {
            task,
            attempt,
            class: FailureClass::ALL[usize::from(draw.byte() % 8)],
            message: draw.text(8),
            position: draw.flag().then(|| draw.number(4)),
        },
        2 => Record::Skipped {
            task,
            first: draw.number(4),
            count: draw.number(3),
        },
        3 => Record::CounterName {
            id: draw.number_u32(3),
            name: draw.text(4),
        },
        4 => Record::Done,
        5 => Record::JobFailed(JobFailure {
            kind: JobFailureKind::NonDeterministic,
            task: draw.flag().then_some(task),
            message: draw.text(8),
        }),
        _ => won(draw, task, attempt),
    }
}

fn won(draw: &mut Draw<'_>, task: TaskId, attempt: AttemptId) -> Record {
    let main = Output {
        name: String::new(),
        length: draw.number(9),
        checksum: draw.number(9),
    };
    let side = |draw: &mut Draw<'_>| Output {
        name: format!("_{}", draw.text(3)),
        length: draw.number(9),
        checksum: draw.number(9),
    };
    let sides: Vec<_> = (0..draw.below(3)).map(|_| side(draw)).collect();
    let mut builtin = [0; mapreduce_core::record::BUILTIN_COUNT];
    builtin[0] = draw.number(9);
    Record::Won(Box::new(TaskWon {
        task,
        attempt,
        incarnation: Incarnation(draw.number(4)),
        outputs: std::iter::once(main).chain(sides).collect(),
        content: draw.number(3),
        inputs: draw.number(3),
        counters: Counters {
            builtin,
            user: (0..draw.below(3))
                .map(|id| (u32::try_from(id).unwrap_or(0), draw.number(9)))
                .collect(),
        },
    }))
}

type Records = Vec<(u32, Vec<u8>, Vec<u8>)>;

/// A region as any octets, in one piece and octet by octet. A run that was written and then
/// changed: refused, or the records that were written.
pub(crate) fn run(data: &[u8]) {
    let mut draw = Draw::new(data);
    if draw.flag() {
        region(draw.rest());
        return;
    }
    let mut records: Records = Vec::new();
    for _ in 0..draw.below(40) {
        let partition = draw.number_u32(u64::from(PARTITIONS)) % PARTITIONS;
        let (key, value) = (draw.bytes(6).to_vec(), draw.bytes(80).to_vec());
        records.push((partition, key, value));
    }
    records.sort();
    let compression = if draw.flag() {
        Compression::Lz4
    } else {
        Compression::None
    };
    let mut writer = RunWriter::new(Vec::new(), PARTITIONS, compression);
    for (partition, key, value) in &records {
        let pushed = writer.push(*partition, key, value);
        pushed.expect("a short record goes into memory");
    }
    let (written, _) = writer.finish().expect("memory takes it");
    let mut changed = written.clone();
    for _ in 0..draw.below(4) {
        let at = usize::try_from(draw.below(changed.len() as u64)).unwrap_or(0);
        if draw.rarely(4) {
            changed.truncate(at.max(1));
        } else {
            changed[at] ^= draw.byte();
        }
    }
    match read(&changed) {
        Some(found) => assert_eq!(found, records, "a damaged run was read"),
        None => assert_ne!(changed, written, "a whole run was refused"),
    }
}

/// All records of a run, as one reads it who has it from a peer.
fn read(run: &[u8]) -> Option<Records> {
    let length = run.len() as u64;
    let (rest, trailer) = run.split_last_chunk::<16>()?;
    let index = usize::try_from(index_length(*trailer, length).ok()?).ok()?;
    let regions = read_index(&rest[rest.len() - index..], *trailer, length).ok()?;
    let mut all = Vec::new();
    for (partition, region) in (0..).zip(regions) {
        let Region { at, length, .. } = region;
        let octets = &run[usize::try_from(at).ok()?..];
        let mut reader = RegionReader::new(octets, length);
        while reader.advance().ok()? {
            all.push((partition, reader.key().to_vec(), reader.value().to_vec()));
        }
    }
    Some(all)
}

/// One octet for each call.
struct Slowly<'a>(&'a [u8]);

impl std::io::Read for Slowly<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let one = to.len().min(1);
        self.0.read(&mut to[..one])
    }
}

fn region(octets: &[u8]) {
    let length = octets.len() as u64;
    let whole = drained(RegionReader::new(octets, length));
    let slowly = drained(RegionReader::new(Slowly(octets), length));
    assert_eq!(whole, slowly, "pieces do not matter");
    if let Some((_, taken)) = &whole {
        assert_eq!(*taken, length, "all of it was read");
        let sums = check(octets, length);
        sums.expect("what can be read has the right checksums");
    }
}

type Drained = Option<(Vec<(Vec<u8>, Vec<u8>)>, u64)>;

fn drained(mut reader: RegionReader<impl std::io::Read>) -> Drained {
    let mut all = Vec::new();
    while reader.advance().ok()? {
        all.push((reader.key().to_vec(), reader.value().to_vec()));
    }
    Some((all, reader.taken()))
}
