//! Makes the inputs that MapReduce is measured with, the same octets everywhere:
//!
//! ```text
//! cargo run --release -p mapreduce --example corpus -- text 1073741824 > corpus.txt
//! cargo run --release -p mapreduce --example corpus -- docs 268435456 > docs.txt
//! cargo run --release -p mapreduce --example corpus -- records 10000000 > recs.txt
//! ```
//!
//! `text`: lines of 5 to 20 words up to the first end of a line at so many octets. `docs`: the same
//! with `D` and a number before each line, and 100 to 300 words. `records`: so many of 100 octets,
//! laid out as those of the sort benchmarks (gensort -a): ten of key, a number, letters.
//!
//! Words are drawn from 200,000 by Zipf's law (s = 1); that of rank r has about 1 + 1.4 log10 r
//! letters. Numbers come from splitmix64.

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};

/// Letters as often as English has them.
const LETTERS: &[u8; 97] = b"eeeeeeeeeeeetttttttttaaaaaaaaooooooooiiiiiiinnnnnnnsssssshhh\
      hhhrrrrrrddddlllluuuccmmwwffggyyppbvk";
const WORDS: u32 = 200_000;

struct SplitMix(u64);

impl SplitMix {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to below 1, of 53 bits.
    fn fraction(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 to below `end`.
    fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.draw()) * u128::from(end);
        u64::try_from(wide >> 64).expect("it is below the end")
    }
}

/// The words, and the sums of 1/r up to each rank.
struct Vocabulary {
    words: Vec<Vec<u8>>,
    sums: Vec<f64>,
}

impl Vocabulary {
    fn draw(random: &mut SplitMix) -> Self {
        let mut seen = HashSet::new();
        let (mut words, mut sums) = (Vec::new(), Vec::new());
        let mut sum = 0.0;
        for rank in 1..=WORDS {
            let word = loop {
                let length = 1.0 + 1.4 * f64::from(rank).log10() + random.below(5) as f64;
                // Far below 100.
                #[expect(clippy::cast_possible_truncation, reason = "a word of 100 letters")]
                let length = length.round().max(1.0) as usize;
                let letters = (0..length).map(|_| {
                    let at = usize::try_from(random.below(97)).expect("below 97");
                    LETTERS[at]
                });
                let word: Vec<u8> = letters.collect();
                if seen.insert(word.clone()) {
                    break word;
                }
            };
            words.push(word);
            sum += 1.0 / f64::from(rank);
            sums.push(sum);
        }
        Self { words, sums }
    }

    fn word(&self, random: &mut SplitMix) -> &[u8] {
        let at = random.fraction() * self.sums[self.sums.len() - 1];
        let rank = self.sums.partition_point(|sum| *sum < at);
        &self.words[rank.min(self.words.len() - 1)]
    }
}

/// Lines of `least` words and up to `more` above it.
fn lines(
    seed: u64,
    octets: u64,
    (least, more): (u64, u64),
    is_numbered: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut random = SplitMix(seed);
    let words = Vocabulary::draw(&mut random);
    let (mut written, mut number) = (0, 0_u64);
    let mut line = Vec::new();
    while written < octets {
        line.clear();
        if is_numbered {
            write!(line, "D{number:08}\t")?;
            number += 1;
        }
        for at in 0..least + random.below(more) {
            if at > 0 {
                line.push(b' ');
            }
            line.extend_from_slice(words.word(&mut random));
        }
        line.push(b'\n');
        out.write_all(&line)?;
        written += line.len() as u64;
    }
    Ok(())
}

fn records(seed: u64, count: u64, out: &mut impl Write) -> io::Result<()> {
    let mut random = SplitMix(seed);
    for number in 0..count {
        let mut record = Vec::with_capacity(100);
        for _ in 0..10 {
            record.push(32 + u8::try_from(random.below(95)).expect("below 95"));
        }
        write!(record, "  {number:032X}  ")?;
        let mut letters = random.draw();
        for _ in 0..13 {
            let letter = b'A' + u8::try_from(letters % 26).expect("below 26");
            letters /= 26;
            record.extend_from_slice(&[letter; 4]);
        }
        record.extend_from_slice(b"\r\n");
        out.write_all(&record)?;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let size = arguments.get(1).and_then(|size| size.parse::<u64>().ok());
    match (arguments.first().map(String::as_str), size) {
        (Some("text"), Some(octets)) => lines(42, octets, (5, 16), false, &mut out)?,
        (Some("docs"), Some(octets)) => lines(43, octets, (100, 201), true, &mut out)?,
        (Some("records"), Some(count)) => records(7, count, &mut out)?,
        _ => {
            eprintln!("usage: corpus text OCTETS | docs OCTETS | records COUNT");
            std::process::exit(2);
        }
    }
    out.flush()
}
