//! The hook `check`: when it is run, and what its failures come to.

use std::fs;

use anyhow::Result;
use cfgsvc_tests::harness::eventually;

use crate::harness::{PATIENCE, Setup, runs};

/// Longer than a test: what ends the serving is the check.
const LONG: &str = "--term 10m --stop 2s --candidates a1,b1";
const OFTEN: [&str; 2] = ["--check-interval", "100ms"];

#[test]
fn a_host_whose_check_fails_gives_the_role_to_another_and_says_why() -> Result<()> {
    let setup = Setup::new(LONG)?;
    let works = setup.dir.path().join("works");
    fs::write(&works, "")?;
    let check = format!("test -e {}", works.display());
    let all = [
        ("check", &*check),
        ("on-serve", ""),
        ("on-standby", ""),
        ("on-fence", ""),
    ];
    let hooks = setup.hooks(&all)?;
    let a = setup.agent("a1", &[&OFTEN[..], &["--hook-dir", hooks.dir()]].concat())?;
    a.serves()?;
    let b = setup.agent("b1", &[])?;
    b.verdict("standby")?;
    fs::remove_file(&works)?;
    b.serves()?;
    // By the guard, and once more by the agent, before the group was told.
    let told = hooks.told("on-standby b1")?;
    assert_eq!(told[2..], ["on-fence", "on-fence", "on-standby b1"]);
    let (_, shown) = a.role()?;
    let problem = shown["problem"].to_string();
    assert!(problem.contains("check failed"), "{shown}");
    // What is over is shown no more once it serves again.
    fs::write(&works, "")?;
    b.end()?;
    a.serves()?;
    eventually(PATIENCE, "no problem", || {
        a.role().is_ok_and(|(_, shown)| shown["problem"].is_null())
    })?;
    a.end()
}

#[test]
fn a_program_whose_check_hangs_is_stopped_and_the_verdict_says_why() -> Result<()> {
    let setup = Setup::new(LONG)?;
    let (place, check) = (
        setup.dir.path().join("a-program"),
        setup.dir.path().join("a-check"),
    );
    let hangs = format!("exec sh -c 'sleep 1000 & wait' {}", check.display());
    let hooks = setup.hooks(&[("check", &hangs)])?;
    let checks = ["--check-timeout", "200ms", "--check-failures", "2"];
    let program = [
        "sh",
        "-c",
        "sleep 1000 & wait",
        place.to_str().unwrap_or(""),
    ];
    let rest = ["--hook-dir", hooks.dir(), "--"];
    let a = setup.agent("a1", &[&OFTEN[..], &checks, &rest, &program].concat())?;
    a.serves()?;
    let mut said = String::new();
    // Nobody else takes it, so that this comes again and again.
    eventually(PATIENCE, "the reason", || {
        let fenced = a.verdict("fenced");
        said = fenced.map(|file| file.reason).unwrap_or_default();
        said.starts_with("check failed")
    })?;
    let expected = "check failed: hook check did not end within 200 ms, 2 times in a row";
    assert_eq!(said, expected);
    a.end()?;
    assert!(!runs(&place) && !runs(&check));
    Ok(())
}

#[test]
fn a_check_that_hangs_keeps_nobody_from_ending() -> Result<()> {
    let setup = Setup::new(LONG)?;
    let place = setup.dir.path().join("a-check");
    let hangs = format!("exec sh -c 'sleep 1000 & wait' {}", place.display());
    let hooks = setup.hooks(&[("check", &hangs), ("on-fence", "")])?;
    let checks = ["--check-timeout", "1h", "--hook-dir", hooks.dir()];
    let a = setup.agent("a1", &[&OFTEN[..], &checks].concat())?;
    a.serves()?;
    eventually(PATIENCE, "the check", || runs(&place))?;
    a.end()?;
    assert!(!runs(&place), "it outlives the serving");
    Ok(())
}

#[test]
fn what_serves_is_not_checked_before_on_serve_has_succeeded() -> Result<()> {
    let setup = Setup::new(LONG)?;
    let at = |name: &str| setup.dir.path().join(name).display().to_string();
    let (checked, early, served) = (at("checked"), at("early"), at("served"));
    // Many times the interval.
    let serves = format!("sleep 1; test ! -e {checked} || touch {early}; touch {served}");
    let check = format!("touch {checked}");
    let hooks = setup.hooks(&[("check", &check), ("on-serve", &serves)])?;
    let a = setup.agent("a1", &[&OFTEN[..], &["--hook-dir", hooks.dir()]].concat())?;
    a.serves()?;
    for file in [&served, &checked] {
        eventually(PATIENCE, file, || fs::exists(file).unwrap_or(false))?;
    }
    assert!(!fs::exists(&early)?);
    a.end()
}
