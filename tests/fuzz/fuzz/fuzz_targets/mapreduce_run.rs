//! `mapreduce_run` of the package above, for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cfgsvc_fuzz::run("mapreduce_run", data));
