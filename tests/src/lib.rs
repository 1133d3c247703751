//! What the tests of the whole repository share: real processes and faults ([`harness`]), and the
//! rules that every file keeps ([`tidy`]).

pub mod harness;
pub mod tidy;
