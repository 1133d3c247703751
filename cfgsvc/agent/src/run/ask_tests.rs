//! What comes of a hook that is asked, and what is left of it.

use super::super::hooks::tests::{dir, free, hangs, hook, hooks};
use super::*;

/// Longer than a hook takes that does nothing, on a machine that is slow.
const LONG: Duration = Duration::from_mins(1);

/// Asks the hook `position`, which runs `script`.
async fn said(limit: Duration, script: &str) -> Result<String, String> {
    let dir = dir();
    hook(dir.path(), "position", script);
    let hooks = hooks(dir.path());
    let mut question = Question::new("position", limit);
    question.says(&hooks, &Told::default()).await
}

#[tokio::test]
async fn what_is_printed_counts_of_a_hook_that_succeeds() {
    let printed = said(LONG, "echo one; echo two").await;
    assert_eq!(printed.as_deref(), Ok("one\ntwo\n"));
    let failed = said(LONG, "echo one; exit 3").await;
    assert_eq!(failed, Err("hook position: exit status: 3".to_owned()));
    let most = said(LONG, "printf %4096d 0").await;
    assert_eq!(most.map(|text| text.len()), Ok(4096));
    let more = said(LONG, "printf %4097d 0").await;
    assert_eq!(
        more,
        Err("hook position printed over 4096 bytes".to_owned())
    );
}

#[tokio::test]
async fn a_hook_whose_time_is_over_is_killed_with_its_group_before_it_is_run_again() {
    let dir = dir();
    let started = hangs(dir.path(), "check");
    let hooks = hooks(dir.path());
    let mut question = Question::new("check", Duration::from_millis(100));
    // It must have come so far before its time was over.
    while !started.exists() {
        let why = question.passes(&hooks, &Told::default()).await;
        assert!(why.is_err_and(|why| why.contains("did not end within")));
        question.limit *= 2;
    }
    free(dir.path());
    hook(dir.path(), "check", "exit 0");
    question.limit = LONG;
    assert_eq!(question.passes(&hooks, &Told::default()).await, Ok(()));
    assert!(question.left.is_none());
}

#[tokio::test]
async fn a_hook_that_nobody_waits_for_any_longer_is_killed_with_its_group() {
    let dir = dir();
    let started = hangs(dir.path(), "check");
    let (hooks, told) = (hooks(dir.path()), Told::default());
    let mut question = Question::new("check", LONG);
    let begun = async {
        while !started.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = question.passes(&hooks, &told) => panic!("it waits: {ended:?}"),
        () = begun => {}
    }
    free(dir.path());
}
