//! How tasks are run, wherever they run: input, collecting, spilling, merging, output.

pub(crate) mod care;
pub(crate) mod child;
pub(crate) mod collect;
pub(crate) mod combined;
pub(crate) mod files;
pub mod input;
pub mod local;
pub mod output;
pub(crate) mod progress;
pub(crate) mod side;
pub(crate) mod spill;
pub mod task;
