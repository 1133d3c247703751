//! What a DNS zone is: names, types, records and sets of them, master files, and the rules that a
//! zone must obey before anybody serves it.
//!
//! Pure: no clock, file, socket, thread or hash order. The same text gives the same zone
//! everywhere, so that the service can check what is written before it is in the log, and every
//! name server can build the same zone from it.
//!
//! Invariants
//! - what is in a [`Zone`] is valid wire data; nothing that reads it has to check again;
//! - everything that is read is bounded;
//! - a refusal names the record, the rule and the next step.

mod check;
mod codec;
mod diff;
mod fault;
mod layout;
mod location;
mod master;
mod name;
mod parts;
mod print;
mod rdata;
mod read;
mod rtype;
mod svcb;
mod token;
mod write;
mod zone;

pub use check::{Findings, check, check_node};
pub use codec::{base64_decode, base64_encode};
pub use diff::{Change, Record, diff};
pub use fault::{FAULTS_MAX, Fault, Report};
pub use master::{FILE_BYTES_MAX, Loaded, RECORDS_MAX, Source, load, parse};
pub use name::{LABEL_OCTETS_MAX, LABELS_MAX, Labels, NAME_OCTETS_MAX, Name, NameError};
pub use print::print;
pub use rdata::{
    NamePlace, RDATA_OCTETS_MAX, Rdata, RdataError, additional_target, canonical, compare_data,
    compressible, names_in,
};
pub use rtype::{Rtype, TypeRefusal, UnknownType};
pub use zone::{
    InsertError, Inserted, Node, RrSet, SET_OCTETS_MAX, SET_RECORDS_MAX, Soa, TTL_MAX, Zone,
};
