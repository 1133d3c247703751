//! DNS: whatever a name server gets from the network, from operators' files and from the store.
//!
//! What a reply must be is said by a reader and by signatures that are not those of the product
//! (`cfgdns-testing`, hickory, `tsig`).

mod key_file;
mod keys;
mod master;
mod notify;
mod reply;
mod request;
mod server;
mod tsig;

pub(crate) use key_file::key_file;
pub(crate) use keys::keys;
pub(crate) use master::master_file;
pub(crate) use notify::notify;
pub(crate) use request::request;
