//! Real processes: members are killed, cut off, started on wrong data and run out of disk.

mod beside;
mod cli;
mod clock;
mod databases;
mod disaster;
mod disk;
mod dns;
mod failures;
mod histories;
mod mapreduce;
mod nemesis;
mod netns;
mod placement;
mod quickstart;
mod refusals;
mod seeds;
mod torn_files;
mod votes;
mod web;
mod writers;
mod zones;
