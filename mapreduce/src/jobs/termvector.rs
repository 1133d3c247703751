//! What hosts are about: for each host the fifty words that occur most in its documents, with how
//! often. A line is a document: its address, a TAB, its text.

use mapreduce::{
    AnyJob, Bytes, Emit, Halves, Job, KeyValues, Pair, Result, Sum, U64, Values, map_fn, reduce_fn,
};

/// A host, and a word: sorted by both, partitioned and grouped by the host.
type Term = Pair<Bytes, Bytes>;

fn terms(address: &[u8], text: &[u8], out: &mut Emit<'_, Term, U64>) -> Result<()> {
    let scheme = address.windows(3).position(|at| at == b"://");
    let rest = &address[scheme.map_or(0, |at| at + 3)..];
    let host = rest
        .split(|octet| b"/?#:".contains(octet))
        .next()
        .unwrap_or_default();
    let words = text.split(|octet| octet.is_ascii() && !octet.is_ascii_alphanumeric());
    for word in words.filter(|word| !word.is_empty()) {
        out.emit(
            Halves::new::<Bytes, Bytes>(host, &word.to_ascii_lowercase()),
            1,
        )?;
    }
    Ok(())
}

fn most_frequent(
    term: Halves<'_>,
    values: &mut Values<'_, U64>,
    out: &mut Emit<'_, Bytes, Bytes>,
) -> Result<()> {
    let mut terms: Vec<(u64, Vec<u8>)> = Vec::new();
    while let Some(count) = values.next()? {
        let key = values.key::<Term>()?;
        let word = key.second::<Bytes>()?;
        match terms.last_mut().filter(|(_, last)| last == word) {
            Some((sum, _)) => *sum += count,
            None => terms.push((count, word.to_vec())),
        }
    }
    // Of those that are as frequent, the first by their octets.
    terms.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let shown = terms
        .into_iter()
        .take(50)
        .map(|(count, word)| [&word, format!(" {count}").as_bytes()].concat());
    out.emit(
        term.first::<Bytes>()?,
        &shown.collect::<Vec<_>>().join(&b'\t'),
    )
}

/// The job.
pub(crate) fn job() -> AnyJob {
    Job::new(
        "termvector",
        KeyValues,
        || map_fn(KeyValues, terms),
        || reduce_fn(most_frequent),
    )
    .combine(Sum::<Term>::default)
    .group_by_first()
    .about("the words that each host's documents have most; lines ADDRESS TAB TEXT")
    .into()
}
