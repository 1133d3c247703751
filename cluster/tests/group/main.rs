//! A group of members in one process, over real sockets and real disks; openraft's conformance
//! suite on our storage; and the two library defects that our settings keep away.

mod batches;
mod conformance;
mod defects;
mod forward;
mod founding;
mod late_answers;
mod list_app;
mod log_end;
mod log_reads;
mod proxy;
mod scenarios;
mod snapshots;
mod state_files;
mod torn_files;
mod world;
