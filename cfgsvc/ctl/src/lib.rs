//! What `cfgctl` reads, apart from the program that acts on it: parsers without I/O.

pub mod lease_id;
pub mod txn_file;
