//! `cfgctl` as its users meet it: what each command prints, where, and with which exit code.
//!
//! A session is a list of command lines; the test compares everything that they print. Words that
//! differ between runs (ports, ids of leases, directories) are replaced by names.

mod diff;
mod dry_run;
mod files;
mod group;
mod help;
mod keys;
mod locks;
mod placement;
mod rollback;
mod session;

use session::Session;
