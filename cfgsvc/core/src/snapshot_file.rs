//! The snapshot file: what `cfgctl snapshot save` writes and `restore` reads, without I/O.
//!
//! ```text
//!  length header │ length frame │ ... │ length last frame │ SHA-256 of all before (32 bytes)
//!                                       holds the trailer: count of records
//! ```
//!
//! A length is a protobuf varint; header and frames are `SnapshotHeader` and `SnapshotFrame`.
//!
//! Invariants
//! - a file that is cut, longer, or has one bit changed is refused: the records that
//!   [`Reader::feed`] returns count only after [`Reader::finish`] has said that the file is whole.
//! - memory is bounded by the frame: [`FRAME_BYTES_MAX`] when reading.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use cfgsvc_proto::state::{Record, SnapshotFrame, SnapshotHeader, SnapshotTrailer};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::limits::REQUEST_BYTES_MAX;

/// First field of every header.
pub const MAGIC: &str = "cfgsvc-snapshot";
/// Most characters that an error shows of what is there instead.
const MAGIC_SHOWN: usize = 32;
/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;
/// Bytes of records after which a frame is written.
pub const FRAME_BYTES: usize = 1 << 20;
/// Largest frame that is read: one that is not full yet, and the largest record, with room to
/// spare. That is an old version of a key as large as a request
/// ([`REQUEST_BYTES_MAX`]) and all zeros, which are escaped.
pub const FRAME_BYTES_MAX: usize = FRAME_BYTES + 2 * REQUEST_BYTES_MAX + (1 << 20);
/// Bytes of the hash at the end.
pub const HASH_BYTES: usize = 32;

/// Encodes a snapshot file.
#[derive(Debug)]
pub struct Writer {
    hash: Sha256,
    pending: Vec<Record>,
    pending_bytes: usize,
    records: u64,
}

impl Writer {
    /// Begins a file; returns its first bytes. Magic and format are set here.
    pub fn new(header: SnapshotHeader) -> (Self, Bytes) {
        let mut writer = Self {
            hash: Sha256::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            records: 0,
        };
        let header = SnapshotHeader {
            magic: MAGIC.to_owned(),
            format: FORMAT,
            ..header
        };
        let first = writer.frame(&header);
        (writer, first)
    }

    fn frame(&mut self, message: &impl Message) -> Bytes {
        let bytes = message.encode_length_delimited_to_vec();
        self.hash.update(&bytes);
        bytes.into()
    }

    /// Adds a record; returns the next bytes of the file when a frame is full.
    pub fn push(&mut self, record: Record) -> Option<Bytes> {
        self.pending_bytes += record.encoded_len() + 4;
        self.pending.push(record);
        self.records += 1;
        if self.pending_bytes < FRAME_BYTES {
            return None;
        }
        self.pending_bytes = 0;
        let frame = SnapshotFrame {
            records: std::mem::take(&mut self.pending),
            trailer: None,
        };
        Some(self.frame(&frame))
    }

    /// Ends the file; returns its last bytes.
    pub fn finish(mut self) -> Bytes {
        let last = SnapshotFrame {
            records: std::mem::take(&mut self.pending),
            trailer: Some(SnapshotTrailer {
                records: self.records,
            }),
        };
        let mut bytes = BytesMut::from(self.frame(&last));
        bytes.extend_from_slice(&self.hash.finalize());
        bytes.freeze()
    }
}

/// Why a file is refused. Offsets are in bytes from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotError {
    /// A length or message that does not decode.
    Damaged {
        /// Where the frame begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A frame larger than any that is written.
    FrameTooLarge {
        /// Where the frame begins.
        offset: u64,
        /// Its length.
        bytes: u64,
    },
    /// Not a snapshot file.
    NotASnapshot {
        /// The beginning of the magic found.
        found: String,
    },
    /// Written by a version that this one does not know.
    UnknownFormat {
        /// The format found.
        found: u32,
    },
    /// The trailer counts other records.
    RecordCount {
        /// What the trailer says.
        expected: u64,
        /// What was read.
        found: u64,
    },
    /// The file was changed.
    HashMismatch {
        /// Hash in the file, hexadecimal.
        expected: String,
        /// Hash of its contents, hexadecimal.
        found: String,
    },
    /// The file ends too early.
    Cut {
        /// Where it ends.
        offset: u64,
        /// What should be there.
        what: &'static str,
    },
    /// The file goes on after its end.
    TooLong {
        /// Where it should end.
        offset: u64,
    },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { offset, what } => {
                write!(f, "snapshot frame at byte {offset} is damaged: {what}")
            }
            Self::FrameTooLarge { offset, bytes } => write!(
                f,
                "snapshot frame at byte {offset} is {bytes} bytes, at most {FRAME_BYTES_MAX}: the \
                 file is damaged or not a snapshot"
            ),
            Self::NotASnapshot { found } => write!(
                f,
                "not a snapshot file: it begins with '{}', expected '{MAGIC}'",
                found.escape_default()
            ),
            Self::UnknownFormat { found } => write!(
                f,
                "snapshot format {found} is not known, this version reads format {FORMAT}"
            ),
            Self::RecordCount { expected, found } => {
                write!(
                    f,
                    "snapshot has {found} records, its trailer says {expected}"
                )
            }
            Self::HashMismatch { expected, found } => write!(
                f,
                "snapshot was changed: its SHA-256 is {found}, expected {expected}"
            ),
            Self::Cut { offset, what } => {
                write!(f, "snapshot is cut at byte {offset}, expected {what}")
            }
            Self::TooLong { offset } => write!(
                f,
                "snapshot goes on after its end at byte {offset}: the file is damaged"
            ),
        }
    }
}

impl std::error::Error for SnapshotError {}

/// What has been read of the file.
#[derive(Debug)]
enum Stage {
    Header,
    Frames,
    Hash,
}

/// Decodes a snapshot file, fed in pieces of any size.
#[derive(Debug)]
pub struct Reader {
    stage: Stage,
    /// Fed and not decoded yet; shorter than a frame and its length, or than what was fed last.
    buffer: BytesMut,
    /// Bytes of the file before `buffer`.
    offset: u64,
    hash: Sha256,
    header: Option<SnapshotHeader>,
    records: u64,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// Begins a file.
    pub fn new() -> Self {
        Self {
            stage: Stage::Header,
            buffer: BytesMut::new(),
            offset: 0,
            hash: Sha256::new(),
            header: None,
            records: 0,
        }
    }

    /// The header, as soon as it is read.
    pub fn header(&self) -> Option<&SnapshotHeader> {
        self.header.as_ref()
    }

    /// Takes the next bytes of the file; returns the records of the frames that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Record>, SnapshotError> {
        self.buffer.extend_from_slice(bytes);
        let mut records = Vec::new();
        while !matches!(self.stage, Stage::Hash) {
            let Some(frame) = self.next_frame()? else {
                return Ok(records);
            };
            let (offset, body) = frame;
            if matches!(self.stage, Stage::Header) {
                self.header = Some(decode_header(offset, body)?);
                self.stage = Stage::Frames;
                continue;
            }
            let frame = SnapshotFrame::decode(body).map_err(|error| damaged(offset, &error))?;
            self.records += frame.records.len() as u64;
            records.extend(frame.records);
            if let Some(trailer) = frame.trailer {
                if trailer.records != self.records {
                    return Err(SnapshotError::RecordCount {
                        expected: trailer.records,
                        found: self.records,
                    });
                }
                self.stage = Stage::Hash;
            }
        }
        if self.buffer.len() > HASH_BYTES {
            return Err(SnapshotError::TooLong {
                offset: self.offset + HASH_BYTES as u64,
            });
        }
        Ok(records)
    }

    /// The body of the next frame and where it begins; `None` when it is not all there.
    fn next_frame(&mut self) -> Result<Option<(u64, Bytes)>, SnapshotError> {
        let offset = self.offset;
        let mut prefix = self.buffer.as_ref();
        let length = match prost::decode_length_delimiter(&mut prefix) {
            Ok(length) => length,
            // A varint is complete within 10 bytes.
            Err(_) if self.buffer.len() < 10 => return Ok(None),
            Err(error) => return Err(damaged(offset, &error)),
        };
        if length > FRAME_BYTES_MAX {
            return Err(SnapshotError::FrameTooLarge {
                offset,
                bytes: length as u64,
            });
        }
        let begin = self.buffer.len() - prefix.len();
        if prefix.len() < length {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(begin + length).freeze();
        self.hash.update(&frame);
        self.offset += frame.len() as u64;
        frame.advance(begin);
        Ok(Some((offset, frame)))
    }

    /// The file has no more bytes; says whether it is whole, and returns its header.
    pub fn finish(self) -> Result<SnapshotHeader, SnapshotError> {
        let offset = self.offset + self.buffer.len() as u64;
        let cut = |what| SnapshotError::Cut { offset, what };
        let header = self.header.ok_or(cut("the header"))?;
        match self.stage {
            Stage::Header | Stage::Frames => return Err(cut("a frame with the trailer")),
            Stage::Hash if self.buffer.len() < HASH_BYTES => return Err(cut("the SHA-256")),
            Stage::Hash => {}
        }
        let found = self.hash.finalize();
        if found.as_slice() != self.buffer.as_ref() {
            return Err(SnapshotError::HashMismatch {
                expected: hex(&self.buffer),
                found: hex(&found),
            });
        }
        Ok(header)
    }
}

fn decode_header(offset: u64, body: Bytes) -> Result<SnapshotHeader, SnapshotError> {
    let header = SnapshotHeader::decode(body).map_err(|error| damaged(offset, &error))?;
    if header.magic != MAGIC {
        return Err(SnapshotError::NotASnapshot {
            found: header.magic.chars().take(MAGIC_SHOWN).collect(),
        });
    }
    if header.format != FORMAT {
        return Err(SnapshotError::UnknownFormat {
            found: header.format,
        });
    }
    Ok(header)
}

fn damaged(offset: u64, error: &prost::DecodeError) -> SnapshotError {
    SnapshotError::Damaged {
        offset,
        what: error.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    let digits = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    digits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables;

    fn small_file() -> (Vec<Record>, Vec<u8>) {
        let records: Vec<Record> = (0..5u8)
            .map(|number| Record {
                key: vec![b'c', number].into(),
                value: vec![number; usize::from(number)].into(),
            })
            .collect();
        let (mut writer, first) = Writer::new(SnapshotHeader {
            cluster_id: 7,
            revision: 12,
            ..SnapshotHeader::default()
        });
        let mut file = first.to_vec();
        for record in &records {
            file.extend(writer.push(record.clone()).unwrap_or_default());
        }
        file.extend(writer.finish());
        (records, file)
    }

    fn read(file: &[u8], piece: usize) -> Result<(SnapshotHeader, Vec<Record>), SnapshotError> {
        let mut reader = Reader::new();
        let mut records = Vec::new();
        for bytes in file.chunks(piece) {
            records.extend(reader.feed(bytes)?);
        }
        Ok((reader.finish()?, records))
    }

    #[test]
    fn file_comes_back_whatever_the_pieces() {
        let (records, file) = small_file();
        for piece in 1..=file.len() {
            let (header, found) = read(&file, piece).expect("own file");
            assert_eq!((header.cluster_id, header.revision), (7, 12));
            assert_eq!(found, records);
        }
    }

    #[test]
    fn file_cut_at_any_length_is_refused() {
        let (_, file) = small_file();
        for length in 0..file.len() {
            let error = read(&file[..length], 7).expect_err("cut");
            assert!(
                matches!(error, SnapshotError::Cut { .. }),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn file_with_any_bit_flipped_is_refused() {
        let (_, file) = small_file();
        for bit in 0..file.len() * 8 {
            let mut changed = file.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            read(&changed, 64).expect_err("one bit differs");
        }
    }

    #[test]
    fn file_that_goes_on_is_refused() {
        let (_, mut file) = small_file();
        let end = file.len() as u64;
        file.push(0);
        assert_eq!(
            read(&file, 1000),
            Err(SnapshotError::TooLong { offset: end })
        );
    }

    #[test]
    fn large_file_has_frames_of_about_a_mebibyte() {
        let (mut writer, first) = Writer::new(SnapshotHeader::default());
        let mut pieces = vec![first];
        for number in 0..300u32 {
            let record = Record {
                key: number.to_be_bytes().to_vec().into(),
                value: vec![7; 10_000].into(),
            };
            pieces.extend(writer.push(record));
        }
        pieces.push(writer.finish());
        assert_eq!(pieces.len(), 4);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.len() < FRAME_BYTES + 11_000)
        );
        let (_, records) = read(&pieces.concat(), 4096).expect("own file");
        assert_eq!(records.len(), 300);
    }

    #[test]
    fn largest_record_behind_an_almost_full_frame_comes_back() {
        let record = |key: Bytes| Record {
            key,
            value: Bytes::new(),
        };
        let (mut writer, first) = Writer::new(SnapshotHeader::default());
        let mut pieces = vec![first];
        let almost = vec![7; FRAME_BYTES - 16];
        pieces.extend(writer.push(record(almost.into())));
        assert_eq!(pieces.len(), 1);
        pieces.extend(writer.push(record(tables::old(&vec![0; REQUEST_BYTES_MAX], 7))));
        assert_eq!(pieces.len(), 2);
        pieces.push(writer.finish());
        let (_, records) = read(&pieces.concat(), 1 << 20).expect("own file");
        assert_eq!(records.len(), 2);
    }

    #[test]
    fn errors_name_offset_and_what_was_expected() {
        let other = SnapshotHeader {
            magic: "other".repeat(100),
            ..SnapshotHeader::default()
        };
        let newer = SnapshotHeader {
            magic: MAGIC.to_owned(),
            format: 9,
            ..SnapshotHeader::default()
        };
        let (_, whole) = small_file();
        let mut changed = whole.clone();
        changed[whole.len() - 1] ^= 1;
        let files = [
            &other.encode_length_delimited_to_vec(),
            &newer.encode_length_delimited_to_vec(),
            &[0xff, 0xff, 0xff, 0x7f][..],
            &whole[..40],
            &changed,
        ];
        let shown = files.map(|file| read(file, 1000).expect_err("bad file").to_string());
        expect_test::expect![[r#"
            not a snapshot file:
              it begins with 'otherotherotherotherotherotherot',
              expected 'cfgsvc-snapshot'
            snapshot format 9 is not known,
              this version reads format 1
            snapshot frame at byte 0 is 268435455 bytes,
              at most 5242880:
              the file is damaged or not a snapshot
            snapshot is cut at byte 40,
              expected a frame with the trailer
            snapshot was changed:
              its SHA-256 is 7f250d5a46769000caa0c164354247c1a177311be8cf759814e11c8fcb325288,
              expected 7f250d5a46769000caa0c164354247c1a177311be8cf759814e11c8fcb325289"#]]
        .assert_eq(
            &shown
                .join("\n")
                .replace(", ", ",\n  ")
                .replace(": ", ":\n  "),
        );
    }
}
