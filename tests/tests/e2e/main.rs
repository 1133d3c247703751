//! Real processes: members are killed, cut off, started on wrong data and run out of disk.

mod cli;
mod clock;
mod disaster;
mod disk;
mod failures;
mod histories;
mod quickstart;
mod refusals;
mod torn_files;
mod writers;
