//! Signed zones: as values, and as the programs of others check them.

mod common;
mod signing;
mod tools;
