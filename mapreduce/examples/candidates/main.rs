//! Three jobs in a chain: of each line of a text all its spans of up to three words are candidates,
//! the best one of each line is chosen, and all that were chosen are evaluated together.
//!
//! ```text
//! lines (ID TAB TEXT) ──find──► candidates ──best──► one for each line ──average──► one number
//!                     map only               map, reduce                map, reduce (R = 1)
//! ```
//!
//! ```text
//! cd mapreduce/examples/candidates
//! cargo run -p mapreduce --example candidates -- run --chain candidates.toml
//! ```

use mapreduce::{
    Bytes, Combine, Emit, Halves, Job, KeyValues, Pair, Result, U64, Values, error, map_fn,
    reduce_fn,
};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Words of a candidate, at most.
const WORDS: usize = 3;

/// A candidate with its score.
type Tested = Pair<U64, Bytes>;
/// A sum, and of how many: what averages are carried in, as they cannot be added themselves.
type SumCount = Pair<U64, U64>;

/// Emits all candidates of a line; what has none is put aside. That is little work for much output:
/// each is tested by the next job, whose splits divide them evenly, however long lines are.
fn find(id: &[u8], text: &[u8], out: &mut Emit<'_, Bytes, Bytes>) -> Result<()> {
    let words = text.split(|octet| !octet.is_ascii_alphabetic());
    let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        let aside = out.side_file("none")?;
        aside.write_all(id)?;
        aside.write_all(b"\n")?;
    }
    for begin in 0..words.len() {
        for end in begin + 1..=words.len().min(begin + WORDS) {
            out.emit(id, &words[begin..end].join(&b' '))?;
        }
    }
    Ok(())
}

/// The test of a candidate: how many different letters it has.
fn score(candidate: &[u8]) -> u64 {
    let letters = candidate.iter().filter(|octet| octet.is_ascii_alphabetic());
    let letters: BTreeSet<u8> = letters.map(u8::to_ascii_lowercase).collect();
    letters.len() as u64
}

fn test(id: &[u8], candidate: &[u8], out: &mut Emit<'_, Bytes, Tested>) -> Result<()> {
    out.count("candidates", "tested", 1);
    out.emit(id, Halves::new::<U64, Bytes>(score(candidate), candidate))
}

/// What is better is greater: a higher score, less text for it, the first by its octets.
fn rank(score: u64, text: &[u8]) -> (u64, Reverse<usize>, Reverse<&[u8]>) {
    (score, Reverse(text.len()), Reverse(text))
}

/// Keeps the best candidate, as a combiner: of the best of parts the best is the best of all.
struct Best;

impl Combine for Best {
    type Value = Tested;
    type Sum = (u64, Vec<u8>);

    fn first(&self, tested: Halves<'_>) -> Self::Sum {
        let score = tested.first::<U64>().expect("it is emitted so");
        let text = tested.second::<Bytes>().expect("it is emitted so");
        (score, text.to_vec())
    }

    fn add(&self, best: &mut Self::Sum, tested: Halves<'_>) {
        let other = self.first(tested);
        if rank(other.0, &other.1) > rank(best.0, &best.1) {
            *best = other;
        }
    }

    fn write(&self, best: &Self::Sum, to: &mut Vec<u8>) {
        use mapreduce::Codec as _;
        Tested::encode(Halves::new::<U64, Bytes>(best.0, &best.1), to);
    }

    fn memory(&self, best: &Self::Sum) -> usize {
        best.1.capacity()
    }
}

fn best(
    id: &[u8],
    values: &mut Values<'_, Tested>,
    out: &mut Emit<'_, Bytes, Tested>,
) -> Result<()> {
    let mut best: Option<(u64, Vec<u8>)> = None;
    while let Some(tested) = values.next()? {
        match &mut best {
            Some(best) => Best.add(best, tested),
            None => best = Some(Best.first(tested)),
        }
    }
    let (score, text) = best.ok_or("a key has a value")?;
    out.emit(id, Halves::new::<U64, Bytes>(score, &text))
}

/// The evaluation of what was chosen: its score, written before its text.
fn evaluate(_id: &[u8], chosen: &[u8], out: &mut Emit<'_, Bytes, SumCount>) -> Result<()> {
    let score = chosen.split(|octet| *octet == b'\t').next();
    let score = std::str::from_utf8(score.unwrap_or_default())?;
    let score = score
        .parse()
        .map_err(|_| error(format!("{score:?} is no score")))?;
    out.emit(b"average", Halves::new::<U64, U64>(score, 1))
}

/// Adds sums and counts, as a combiner.
struct Add;

impl Combine for Add {
    type Value = SumCount;
    type Sum = (u64, u64);

    fn first(&self, value: Halves<'_>) -> (u64, u64) {
        let sum = value.first::<U64>().expect("it is emitted so");
        (sum, value.second::<U64>().expect("it is emitted so"))
    }

    fn add(&self, sum: &mut (u64, u64), value: Halves<'_>) {
        let (more, count) = self.first(value);
        *sum = (sum.0.saturating_add(more), sum.1.saturating_add(count));
    }

    fn write(&self, sum: &(u64, u64), to: &mut Vec<u8>) {
        use mapreduce::Codec as _;
        SumCount::encode(Halves::new::<U64, U64>(sum.0, sum.1), to);
    }
}

fn average(
    name: &[u8],
    values: &mut Values<'_, SumCount>,
    out: &mut Emit<'_, Bytes, Bytes>,
) -> Result<()> {
    let mut all = (0, 0);
    while let Some(value) = values.next()? {
        Add.add(&mut all, value);
    }
    let average = all.0 as f64 / all.1 as f64;
    out.emit(name, format!("{average:.6} of {}", all.1).as_bytes())
}

fn main() -> std::process::ExitCode {
    let find = Job::map_only("find", KeyValues, || map_fn(KeyValues, find))
        .about("all candidates of each line; lines ID TAB TEXT");
    let best = Job::new(
        "best",
        KeyValues,
        || map_fn(KeyValues, test),
        || reduce_fn(best),
    )
    .combine(|| Best)
    .about("tests candidates; the best one of each line");
    let average = Job::new(
        "average",
        KeyValues,
        || map_fn(KeyValues, evaluate),
        || reduce_fn(average),
    )
    .combine(|| Add)
    .about("evaluates what was chosen; the average");
    mapreduce::main(vec![find.into(), best.into(), average.into()])
}
