//! For each word the documents that have it, in order, each once. A line is a document: its name, a
//! TAB, its text. Words stand between white space (of ASCII). The line of a word is made in memory,
//! with the names of all its documents.

use mapreduce::{AnyJob, Bytes, Emit, Job, KeyValues, Lists, Result, map_fn};

fn postings(name: &[u8], text: &[u8], out: &mut Emit<'_, Bytes, Bytes>) -> Result<()> {
    let words = text.split(u8::is_ascii_whitespace);
    for word in words.filter(|word| !word.is_empty()) {
        out.emit(word, name)?;
    }
    Ok(())
}

/// The job.
pub(crate) fn job() -> AnyJob {
    Job::new(
        "invertedindex",
        KeyValues,
        || map_fn(KeyValues, postings),
        || Lists,
    )
    .combine(|| Lists)
    .about("for each word the documents that have it; lines NAME TAB TEXT")
    .into()
}
