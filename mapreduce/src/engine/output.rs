//! Output files.

use crate::api::{Ref, Sink};
use crate::store::{Part, Parts};
use crate::{Codec, Result};
use mapreduce_core::spec;
use mapreduce_data::block::Compression;
use mapreduce_data::partition::Hasher;
use mapreduce_data::run::RunWriter;
use std::io::{BufWriter, IntoInnerError, Write};
use std::sync::Arc;

/// Octets that are written at once.
const BUFFER: usize = 256 << 10;

/// How output records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// A line for each, `key TAB value`; the key alone when the value holds nothing, and the value
    /// alone when the key does.
    Lines,
    /// As it is read by [`crate::Pairs`]: any octets in keys and values, in checked blocks.
    Pairs,
}

impl From<spec::OutputFormat> for OutputFormat {
    fn from(format: spec::OutputFormat) -> Self {
        match format {
            spec::OutputFormat::Lines => Self::Lines,
            spec::OutputFormat::Pairs => Self::Pairs,
        }
    }
}

/// A format of a job's own: octets for each record. The checksum, the manifest and who may publish
/// are the same as for other formats.
pub trait RecordFormat<K: Codec, V: Codec>: Send + Sync + 'static {
    /// Appends a record as it is to be in the file, with what ends it.
    fn record(&self, key: Ref<'_, K>, value: Ref<'_, V>, to: &mut Vec<u8>) -> Result<()>;

    /// Appends what each file begins with; nothing, unless this says otherwise.
    fn head(&self, _to: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    /// Appends what each file ends with; nothing, unless this says otherwise.
    fn tail(&self, _to: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
}

/// The format of a job's own.
pub(crate) type Own<K, V> = Arc<dyn RecordFormat<K, V>>;

/// How a task writes its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    /// As one of those that all jobs have.
    Format(OutputFormat),
    /// In the job's own.
    Own,
}

/// What an output file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) records: u64,
    pub(crate) octets: u64,
    /// XXH3 of all octets.
    pub(crate) checksum: u64,
}

/// Where a task writes its part of the output.
pub(crate) struct Target<'a> {
    pub(crate) to: &'a dyn Parts,
    /// The file's.
    pub(crate) name: String,
}

/// A file of an output, and the checksum of what was written to it.
pub(crate) struct Summed {
    part: Box<dyn Part>,
    sum: Hasher,
}

impl Summed {
    pub(crate) fn new(part: Box<dyn Part>) -> Self {
        let sum = Hasher::new();
        Self { part, sum }
    }

    /// Ends it, durably; octets and their checksum.
    pub(crate) fn finish(self) -> Result<(u64, u64)> {
        Ok((self.part.finish()?, self.sum.finish()))
    }
}

impl Write for Summed {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        let taken = self.part.write(octets)?;
        self.sum.write(&octets[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.part.flush()
    }
}

enum To<K: Codec, V: Codec> {
    Lines(BufWriter<Summed>),
    Pairs(RunWriter<BufWriter<Summed>>),
    Own(BufWriter<Summed>, Own<K, V>),
}

/// An output file that is being written. It is synced when it is finished.
pub(crate) struct Output<K: Codec, V: Codec> {
    to: To<K, V>,
    records: u64,
    line: Vec<u8>,
    key: Vec<u8>,
}

impl<K: Codec, V: Codec> Output<K, V> {
    /// A new file.
    pub(crate) fn create(target: &Target<'_>, format: As, own: Option<&Own<K, V>>) -> Result<Self> {
        let part = Summed::new(target.to.create(&target.name)?);
        let file = BufWriter::with_capacity(BUFFER, part);
        let mut line = Vec::new();
        let to = match (format, own) {
            (As::Format(OutputFormat::Lines), _) => To::Lines(file),
            (As::Format(OutputFormat::Pairs), _) => {
                To::Pairs(RunWriter::new(file, 1, Compression::Lz4))
            }
            (As::Own, Some(own)) => {
                let mut file = file;
                own.head(&mut line)?;
                file.write_all(&line)?;
                To::Own(file, Arc::clone(own))
            }
            (As::Own, None) => return Err("the job has no format of its own".into()),
        };
        Ok(Self {
            to,
            records: 0,
            line,
            key: Vec::new(),
        })
    }

    /// Adds a record.
    pub(crate) fn write(&mut self, key: Ref<'_, K>, value: Ref<'_, V>) -> Result<()> {
        self.records += 1;
        let line = &mut self.line;
        line.clear();
        match &mut self.to {
            To::Lines(file) => {
                K::text(key, line);
                if !K::IS_NOTHING && !V::IS_NOTHING {
                    line.push(b'\t');
                }
                V::text(value, line);
                line.push(b'\n');
                file.write_all(line)?;
            }
            To::Own(file, own) => {
                own.record(key, value, line)?;
                file.write_all(line)?;
            }
            To::Pairs(run) => {
                K::with(key, &mut self.key, |key| {
                    V::with(value, line, |value| run.push(0, key, value))
                })?;
            }
        }
        Ok(())
    }

    /// Ends and syncs it.
    pub(crate) fn finish(mut self) -> Result<Written> {
        let file = match self.to {
            To::Lines(file) => file,
            To::Own(mut file, own) => {
                self.line.clear();
                own.tail(&mut self.line)?;
                file.write_all(&self.line)?;
                file
            }
            To::Pairs(run) => run.finish()?.0,
        };
        let part = file.into_inner().map_err(IntoInnerError::into_error)?;
        let (octets, checksum) = part.finish()?;
        Ok(Written {
            records: self.records,
            octets,
            checksum,
        })
    }
}

impl<K: Codec, V: Codec> Sink<K, V> for Output<K, V> {
    fn emit(&mut self, key: Ref<'_, K>, value: Ref<'_, V>) -> Result<()> {
        self.write(key, value)
    }
}
