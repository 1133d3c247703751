//! Jobs as JSON: golden, and what is refused.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn spec() -> JobSpec {
    JobSpec {
        version: SPEC_VERSION,
        name: "words".to_owned(),
        code: JobCode::Builtin {
            name: "wordcount".to_owned(),
            arguments: vec!["--fold-case".to_owned()],
        },
        input: InputSpec {
            splits: 16,
            chunks: 1,
            bytes: 1 << 30,
            digest: "00".repeat(32),
        },
        reduces: 8,
        output: "file:///out".to_owned(),
        options: JobOptions::default(),
    }
}

fn refused(json: &str, expect: Expect) {
    let error = JobSpec::from_json(json.as_bytes()).expect_err("refused");
    expect.assert_eq(&error.to_string());
}

#[test]
fn a_job_is_read_as_it_was_written() {
    let json = spec().to_json().expect("within bounds");
    expect![[r#"{"version":1,"name":"words","code":{"kind":"builtin","name":"wordcount","arguments":["--fold-case"]},"input":{"splits":16,"chunks":1,"bytes":1073741824,"digest":"0000000000000000000000000000000000000000000000000000000000000000"},"reduces":8,"output":"file:///out","options":{"attempts_max":4,"backup_tasks":true,"external_effects":false,"skipped_max":0,"slow_start_percent":5,"locality_wait_ms":0}}"#]]
    .assert_eq(&String::from_utf8(json.clone()).expect("text"));
    assert_eq!(JobSpec::from_json(&json), Ok(spec()));
}

#[test]
fn a_job_with_an_output_format_of_its_own_says_so() {
    let mut asked = spec();
    asked.options.format = Some(OutputFormat::Pairs);
    let json = asked.to_json().expect("within bounds");
    let text = String::from_utf8(json.clone()).expect("text");
    assert!(text.contains(r#""format":"pairs""#), "{text}");
    assert_eq!(JobSpec::from_json(&json), Ok(asked));
}

#[test]
fn a_later_version_and_unknown_fields_are_refused_clearly() {
    refused(
        r#"{"version":2,"anything":{}}"#,
        expect!["the job has version 2, this program knows up to 1; upgrade it"],
    );
    let json = spec().to_json().expect("within bounds");
    let json = String::from_utf8(json)
        .expect("text")
        .replace("\"reduces\"", "\"sorted\":1,\"reduces\"");
    let error = JobSpec::from_json(json.as_bytes())
        .expect_err("refused")
        .to_string();
    assert!(error.contains("unknown field `sorted`"), "{error}");
    refused(
        "[]",
        expect![
            "the job cannot be read: invalid length 0, expected struct Versioned with 1 element at line 1 column 2"
        ],
    );
}

#[test]
fn numbers_out_of_bounds_are_refused() {
    let mut asked = spec();
    asked.options.attempts_max = 0;
    let error = asked.to_json().expect_err("refused");
    expect!["attempts_max is 0, expected 1 to 100"].assert_eq(&error.to_string());
    let mut asked = spec();
    asked.reduces = 250_000;
    let error = asked.to_json().expect_err("refused");
    expect!["map and reduce tasks is 250016, expected 0 to 250000"].assert_eq(&error.to_string());
    let mut asked = spec();
    asked.code = JobCode::Streaming {
        map: vec!["cat".to_owned()],
        combine: Vec::new(),
        reduce: Vec::new(),
        environment: BTreeMap::new(),
    };
    let error = asked.to_json().expect_err("refused");
    expect!["words of the reduce is 0, expected 1 to 256"].assert_eq(&error.to_string());
}

#[test]
fn a_digest_tells_where_one_value_ends() {
    assert_ne!(digest([&b"ab"[..], b"c"]), digest([&b"a"[..], b"bc"]));
}

proptest! {
    #[test]
    fn any_bytes_as_a_job_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = JobSpec::from_json(&bytes);
    }
}
