//! What the jobs are measured against: the same results by programs of a few lines, for inputs that
//! fit into memory and a machine that does not fail.
//!
//! ```text
//! cargo run --release -p mapreduce --example plain -- wordcount corpus.txt counts.txt
//! cargo run --release -p mapreduce --example plain -- sort recs.txt sorted.txt
//! cargo run --release -p mapreduce --example plain -- invertedindex docs.txt index.txt
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};

use memchr::memchr_iter;

/// Two parts of about the same size, at the end of a line.
fn halves(text: &[u8]) -> [&[u8]; 2] {
    let middle = text.len() / 2;
    let end = text[middle..].iter().position(|octet| *octet == b'\n');
    let (first, second) = text.split_at(end.map_or(text.len(), |end| middle + end + 1));
    [first, second]
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = memchr_iter(b'\n', text);
    let mut begin = 0;
    ends.map(move |end| {
        let line = &text[begin..end];
        begin = end + 1;
        line
    })
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

/// Both halves at once.
fn both<'a, T: Send>(text: &'a [u8], work: fn(&'a [u8]) -> T) -> [T; 2] {
    let [first, second] = halves(text);
    std::thread::scope(|scope| {
        let other = scope.spawn(move || work(second));
        let first = work(first);
        let second = other
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        [first, second]
    })
}

fn count(text: &[u8]) -> HashMap<&[u8], u64> {
    let mut counts = HashMap::new();
    words(text).for_each(|word| *counts.entry(word).or_default() += 1);
    counts
}

fn wordcount(text: &[u8], out: &mut impl Write) -> std::io::Result<()> {
    let [mut counts, more] = both(text, count);
    for (word, by) in more {
        *counts.entry(word).or_default() += by;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable();
    for (word, count) in counts {
        out.write_all(word)?;
        writeln!(out, "\t{count}")?;
    }
    Ok(())
}

fn sorted(text: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = lines(text).collect();
    lines.sort_unstable();
    lines
}

fn sort(text: &[u8], out: &mut impl Write) -> std::io::Result<()> {
    let [first, second] = both(text, sorted);
    let (mut first, mut second) = (first.into_iter().peekable(), second.into_iter().peekable());
    loop {
        let next = match (first.peek(), second.peek()) {
            (Some(a), Some(b)) if a > b => second.next(),
            (Some(_), _) => first.next(),
            (None, _) => second.next(),
        };
        let Some(line) = next else {
            return Ok(());
        };
        out.write_all(line)?;
        out.write_all(b"\n")?;
    }
}

/// Documents by word; a document is named once for each of its words.
fn index(text: &[u8]) -> HashMap<&[u8], Vec<&[u8]>> {
    let mut index: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
    for line in lines(text) {
        let end = line
            .iter()
            .position(|octet| *octet == b'\t')
            .unwrap_or(line.len());
        let (name, text) = line.split_at(end);
        for word in words(text) {
            let documents = index.entry(word).or_default();
            if documents.last() != Some(&name) {
                documents.push(name);
            }
        }
    }
    index
}

fn invertedindex(text: &[u8], out: &mut impl Write) -> std::io::Result<()> {
    let [mut all, more] = both(text, index);
    for (word, documents) in more {
        all.entry(word).or_default().extend(documents);
    }
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_unstable();
    for (word, mut documents) in all {
        documents.sort_unstable();
        out.write_all(word)?;
        for document in documents {
            out.write_all(b"\t")?;
            out.write_all(document)?;
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [job, input, output] = arguments.as_slice() else {
        return Err("JOB INPUT OUTPUT: wordcount, sort or invertedindex, and two files".into());
    };
    let text = fs::read(input)?;
    let mut out = BufWriter::new(File::create(output)?);
    match job.as_str() {
        "wordcount" => wordcount(&text, &mut out)?,
        "sort" => sort(&text, &mut out)?,
        "invertedindex" => invertedindex(&text, &mut out)?,
        other => return Err(format!("{other} is not known").into()),
    }
    out.into_inner()?.sync_all()?;
    Ok(())
}
