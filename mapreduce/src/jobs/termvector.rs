//! What hosts are about: for each host the fifty words that occur most in its documents, with how
//! often. A line is a document: its address, a TAB, its text.

use mapreduce::{AnyJob, Bytes, Emit, Halves, Job, KeyValues, Pair, Result, Sum, U64, Values};
use mapreduce::{map_fn, reduce_fn};
use std::cmp::Reverse;

/// A host, and a word: sorted by both, partitioned and grouped by the host.
type Term = Pair<Bytes, Bytes>;
type Line<'a, 'b> = &'a mut Emit<'b, Bytes, Bytes>;

fn terms(address: &[u8], text: &[u8], out: &mut Emit<'_, Term, U64>) -> Result<()> {
    let is_scheme = |octet: &u8| octet.is_ascii_alphanumeric() || b"+-.".contains(octet);
    let scheme = address.iter().take_while(|octet| is_scheme(octet)).count();
    let rest = address[scheme..].strip_prefix(b"://").unwrap_or(address);
    let host = rest.split(|octet| b"/?#:".contains(octet)).next();
    let host = host.unwrap_or_default().to_ascii_lowercase();
    let words = text.split(|octet| octet.is_ascii() && !octet.is_ascii_alphanumeric());
    for word in words.filter(|word| !word.is_empty()) {
        let word = word.to_ascii_lowercase();
        out.emit(Halves::new::<Bytes, Bytes>(&host, &word), 1)?;
    }
    Ok(())
}

fn most_frequent(term: Halves<'_>, counts: &mut Values<'_, U64>, out: Line<'_, '_>) -> Result<()> {
    // In the order in which they are shown: of those that are as frequent, the first by octets.
    let mut terms: Vec<(Reverse<u64>, Vec<u8>)> = Vec::new();
    while let Some(count) = counts.next()? {
        let key = counts.key::<Term>()?;
        let word = key.second::<Bytes>()?;
        if let Some((sum, _)) = terms.last_mut().filter(|(_, last)| last == word) {
            sum.0 += count;
            continue;
        }
        // Words come in order, so all of these are counted to their ends.
        if terms.len() == 1000 {
            terms.sort_unstable();
            terms.truncate(50);
        }
        terms.push((Reverse(count), word.to_vec()));
    }
    terms.sort_unstable();
    terms.truncate(50);
    let show = |(Reverse(count), word)| [word, format!(" {count}").into_bytes()].concat();
    let shown: Vec<_> = terms.into_iter().map(show).collect();
    out.emit(term.first::<Bytes>()?, &shown.join(&b'\t'))
}

/// The job.
pub(crate) fn job() -> AnyJob {
    let mapper = || map_fn(KeyValues, terms);
    Job::new("termvector", KeyValues, mapper, || reduce_fn(most_frequent))
        .combine(Sum::<Term>::default)
        .group_by_first()
        .about("the words that each host's documents have most; lines ADDRESS TAB TEXT")
        .into()
}
