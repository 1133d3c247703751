//! A job from what the group has of it. Everything is checked: lengths and versions, that the parts
//! belong together by their digests, and, when a master takes it, that the log holds.

use std::fmt::Write as _;

use super::event::JobImage;
use crate::limits::TASKS_MAX;
use crate::names::JobId;
use crate::plan::{Plan, SplitError, SplitList};
use crate::record::{Batch, DecodeError, Header};
use crate::spec::{InputSpec, JobSpec, SpecError, digest};

/// A job that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Its header.
    #[error("the header of {job}")]
    Header {
        /// Which job.
        job: JobId,
        /// What was wrong.
        #[source]
        source: DecodeError,
    },
    /// Its specification.
    #[error("the specification of {job}")]
    Spec {
        /// Which job.
        job: JobId,
        /// What was wrong.
        #[source]
        source: SpecError,
    },
    /// Its splits.
    #[error("the splits of {job}")]
    Splits {
        /// Which job.
        job: JobId,
        /// What was wrong.
        #[source]
        source: SplitError,
    },
    /// A batch of its log.
    #[error("batch {sequence} of {job}")]
    Batch {
        /// Which job.
        job: JobId,
        /// Which batch.
        sequence: u64,
        /// What was wrong.
        #[source]
        source: DecodeError,
    },
    /// Parts of different jobs.
    #[error("{what} of {job} are not those that it was submitted with")]
    Mixed {
        /// Which job.
        job: JobId,
        /// Which part.
        what: &'static str,
    },
}

impl JobImage {
    /// From the values of the group: header, specification, chunks of splits, batches from the
    /// first on.
    pub fn read(
        job: JobId,
        header: &[u8],
        spec: &[u8],
        chunks: &[Vec<u8>],
        log: &[Vec<u8>],
    ) -> Result<Self, ImageError> {
        let header = Header::decode(header).map_err(|source| ImageError::Header { job, source })?;
        let mixed = |what| Err(ImageError::Mixed { job, what });
        if digest([spec]) != header.spec_digest {
            return mixed("the specification");
        }
        let spec = JobSpec::from_json(spec).map_err(|source| ImageError::Spec { job, source })?;
        if spec.input.digest != digest_text(chunks) || spec.input.chunks as usize != chunks.len() {
            return mixed("the splits");
        }
        let splits = SplitList::from_chunks(chunks);
        let splits = splits.map_err(|source| ImageError::Splits { job, source })?;
        let counts = (header.maps, header.reduces);
        let tasks = header.maps.saturating_add(header.reduces);
        if (splits.count(), spec.reduces) != counts || tasks > TASKS_MAX {
            return mixed("the numbers of tasks");
        }
        let batches = (1..).zip(log).map(|(sequence, batch)| {
            Batch::decode(batch).map_err(|source| ImageError::Batch {
                job,
                sequence,
                source,
            })
        });
        Ok(Self {
            job,
            log: batches.collect::<Result<_, _>>()?,
            header,
            spec,
            splits,
        })
    }
}

impl Plan {
    /// What a job says about its splits, which are stored as `chunks`.
    pub fn input(&self, chunks: &[Vec<u8>]) -> InputSpec {
        InputSpec {
            splits: self.maps(),
            chunks: u32::try_from(chunks.len()).unwrap_or(u32::MAX),
            bytes: self.bytes,
            digest: digest_text(chunks),
        }
    }
}

fn digest_text(chunks: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for byte in digest(chunks.iter().map(Vec::as_slice)) {
        // A text takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Epoch;
    use crate::record::{JobStatus, Record};
    use crate::spec::JobOptions;
    use crate::tests::hostile::image;

    #[test]
    fn a_job_is_read_as_a_whole_or_not_at_all() {
        let job = JobId(7);
        let mut made = image(7, 3, 2, JobOptions::default());
        let chunks = made.splits.chunks();
        made.spec.input.digest = digest_text(&chunks);
        let spec = made.spec.to_json().expect("within bounds");
        made.header.spec_digest = digest([&spec[..]]);
        let batch = Batch {
            epoch: Epoch(1),
            records: vec![Record::Done],
        };
        let log = vec![batch.encode()];
        let header = made.header.encode();
        let read = JobImage::read(job, &header, &spec, &chunks, &log).expect("it fits");
        assert_eq!((read.splits, read.log), (made.splits, vec![batch]));
        let refused = |header: &Header, spec: &[u8], chunks: &[Vec<u8>], log: &[Vec<u8>]| {
            let read = JobImage::read(job, &header.encode(), spec, chunks, log);
            read.expect_err("refused").to_string()
        };
        let other = [&spec[..], b" "].concat();
        assert!(refused(&made.header, &other, &chunks, &log).contains("the specification of"));
        assert!(refused(&made.header, &spec, &[], &log).contains("the splits of job-7 are not"));
        let more = Header {
            maps: 4,
            status: JobStatus::Running,
            ..made.header.clone()
        };
        assert!(refused(&more, &spec, &chunks, &log).contains("the numbers of tasks"));
        let damaged = [vec![0xff]];
        assert_eq!(
            refused(&made.header, &spec, &chunks, &damaged),
            "batch 1 of job-7"
        );
    }
}
