//! What MapReduce does with records: their order, who gets which, sorted runs of them, merging, and
//! folding values of a key together. It reads and writes what it is given; it opens no file, starts
//! no thread and knows nothing of tasks.
//!
//! ```text
//!  map ──► Collect ──► run, run, run ──► merge ──► one run for each map task
//!          (folded or sorted in memory)            R regions, each sorted by key
//!                                                        │ the region of one partition, of each
//!                                                        ▼ map task
//!                                                      merge ──► groups ──► reduce
//! ```
//!
//! Invariants
//! - within a region keys never go down, compared as bytes ([`codec`] makes that the order of what
//!   they stand for), and values of one key are in the order in which they were collected;
//! - the same records with the same settings make the same octets;
//! - what was read from a disk or a peer is checked (lengths, CRC) before it is believed, and no
//!   length makes a reader take memory that did not arrive.

pub mod block;
pub mod codec;
pub mod fold;
pub mod merge;
pub mod partition;
pub mod run;
pub mod sort;

/// Octets of key and value together, at most: what is longer is refused, by name.
pub const RECORD_MAX: usize = 64 << 20;

/// Why records could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The disk, or the connection.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What was read is not what was written.
    #[error("the run is damaged: {what}, at octet {at}")]
    Damaged {
        /// What does not fit.
        what: &'static str,
        /// Octets read before it, from the begin of the region.
        at: u64,
    },
    /// A record that is too long.
    #[error("a record has {length} octets, the limit is {RECORD_MAX}")]
    TooLong {
        /// Of key and value together.
        length: usize,
    },
    /// Nobody wants what is read or written any more.
    #[error("ended")]
    Ended,
    /// What a key or value holds is not what its type can hold.
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
}
