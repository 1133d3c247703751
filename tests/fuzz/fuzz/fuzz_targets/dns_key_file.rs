//! `dns_key_file` of the package above, for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cfgsvc_fuzz::run("dns_key_file", data));
