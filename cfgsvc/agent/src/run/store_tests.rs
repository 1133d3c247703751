//! What is taken for another store, and when the host is looked at.

use std::fs;
use std::path::Path;

use super::super::hooks::tests::{dir, free, hangs, hook, hooks};
use super::*;

const LONG: Duration = Duration::from_mins(1);

fn said(text: &str) -> Option<Said> {
    Said::parse(text).expect("it can be read")
}

#[test]
fn a_position_is_two_words_or_three_or_none() {
    let (two, three) = (said("db 17\n"), said(" db 17 boot-3"));
    let of = |life: &str| Said {
        identity: "db".to_owned(),
        position: "17".to_owned(),
        life: life.to_owned(),
    };
    assert_eq!((two, three), (Some(of("")), Some(of("boot-3"))));
    assert_eq!(said(" \n"), None);
    for (text, words) in [("db", "1 words"), ("db 1 2 3", "4 words")] {
        let why = Said::parse(text).expect_err(text);
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn another_life_or_identity_or_less_than_before_is_a_store_that_was_opened_anew() {
    use Change::{Filled, None, Reopened};
    for (before, now, expected) in [
        ("", "", None),
        ("db 17 a", "db 17 a", None),
        ("db 17 a", "db 18 a", None),
        ("db 17 a", "db 17 b", Reopened),
        ("db 17 a", "db 18", Reopened),
        ("db 17", "other 17", Reopened),
        ("db 17", "db 16", Reopened),
        ("db 17", "db 0", Reopened),
        ("db 17", "", Reopened),
        ("db 0 a", "db 0 b", Reopened),
        ("", "db 0 a", Filled),
        ("", "db 17 a", Filled),
        ("db 0 a", "db 17 a", Filled),
        ("db 0-1-5 a", "db 0-1-5,0-2-7 a", None),
        ("db 0-1-5,0-2-7 a", "db 0-1-9 a", Reopened),
        ("db 0-1-5 a", "db 0 a", Reopened),
        ("db 1@0/500 a", "db 1@0/600,2@0/700 a", None),
        ("db 1@0/500 a", "db 1@0/400,2@0/700 a", Reopened),
        // Nobody can tell.
        ("db x a", "db y a", None),
    ] {
        let (was, is) = (said(before), said(now));
        let found = change(was.as_ref(), is.as_ref());
        assert_eq!(found, expected, "'{before}', then '{now}'");
    }
}

/// What a look at the store comes to: whether the group must be told, and the hook.
fn looked(store: &Store, text: Option<&str>) -> (bool, bool) {
    let looked = store.looked(text.map(said).ok_or_else(|| "it failed".to_owned()));
    (looked.says_anew, looked.tells_again)
}

const NOTHING: (bool, bool) = (false, false);

#[test]
fn three_looks_in_a_row_that_fail_are_a_store_that_was_opened_anew() {
    let store = Store::default();
    store.came(store.ticket(), said("db 17 a"));
    for fails in [2, 2, 3] {
        for failure in 1..=fails {
            let opened = failure == 3;
            assert_eq!(
                looked(&store, None),
                (opened, opened),
                "{failure} of {fails}"
            );
        }
        assert_eq!(looked(&store, Some("db 18 a")), NOTHING);
    }
}

#[test]
fn the_group_is_told_until_it_knows_and_the_hook_once() {
    let store = Store::default();
    store.came(store.ticket(), said("db 0 a"));
    assert_eq!(
        looked(&store, Some("db 17 a")),
        (true, false),
        "it has data"
    );
    store.came(store.ticket(), said("db 17 a"));
    assert_eq!(looked(&store, Some("db 18 a")), NOTHING);
    assert_eq!(looked(&store, Some("db 18 b")), (true, true));
    assert_eq!(looked(&store, Some("db 18 b")), (true, false));
    store.came(store.ticket(), said("db 18 b"));
    assert!(!store.tells_again());
    assert_eq!(looked(&store, Some("db 19 b")), NOTHING);
    // By a hook.
    store.hook_ended();
    assert_eq!(looked(&store, Some("db 19 c")), (true, false));
}

#[test]
fn the_hook_is_told_again_of_what_it_has_not_done_itself() {
    let store = Store::default();
    store.came(store.ticket(), said("db 17 a"));
    assert!(!store.tells_again(), "it comes for the first time");
    store.came(store.ticket(), said("db 18 a"));
    assert!(!store.tells_again());
    // It started again, and came again for another reason before that was seen.
    store.came(store.ticket(), said("db 18 b"));
    assert!(store.tells_again() && !store.tells_again());
    // The hook started it again; and the host was asked for the group before that was over.
    let ticket = store.ticket();
    store.hook_ended();
    store.came(ticket, said("db 18 c"));
    assert!(!store.tells_again());
    store.came(store.ticket(), said("db 18 d"));
    assert!(!store.tells_again());
    // It was seen while the hook ran, which has done with it what is to be done.
    store.came(store.ticket(), said("db 18 e"));
    store.hook_ended();
    assert!(!store.tells_again());
}

#[test]
fn a_host_does_not_begin_with_another_store_than_it_came_with() {
    let store = Store::default();
    store.came(store.ticket(), said("db 17 a"));
    let is_another = |text: &str| store.is_another(said(text).as_ref());
    assert!(!is_another("db 17 a") && !is_another("db 18 a"));
    assert!(is_another("db 17 b") && is_another("db 16 a") && is_another(""));
    store.came(store.ticket(), said(""));
    assert!(!is_another("db 17") && is_another("db 17 a"));
}

/// A host that attends with `db 17 a`.
struct World {
    dir: tempfile::TempDir,
    rests: watch::Sender<bool>,
    heard: mpsc::Receiver<Event>,
    looks: Looks,
}

fn world() -> World {
    let dir = dir();
    says(dir.path(), "db 17 a");
    let (rests, rested) = watch::channel(true);
    let (events, heard) = mpsc::channel(8);
    // Nobody's time is over before the test's.
    let position = Question::new("position", 10 * LONG);
    let store = Arc::new(Store {
        position: tokio::sync::Mutex::new(position),
        ..Store::default()
    });
    store.came(store.ticket(), said("db 17 a"));
    let looks = Looks {
        hooks: hooks(dir.path()),
        store,
        last: Last::default(),
        rests: rested,
        board: Arc::default(),
        events,
    };
    World {
        dir,
        rests,
        heard,
        looks,
    }
}

/// The hook says so from now on, and notes that it was asked.
fn says(dir: &Path, text: &str) {
    let asked = dir.join("asked");
    let script = format!("touch {}; echo {text}", asked.display());
    // Whole, or not at all.
    hook(dir, "new", &script);
    fs::rename(dir.join("new"), dir.join("position")).expect("writable");
}

fn asked(dir: &Path) -> bool {
    dir.join("asked").exists()
}

#[tokio::test]
async fn a_store_that_was_opened_anew_is_told_to_the_group_and_to_the_hook() {
    let mut world = world();
    let store = Arc::clone(&world.looks.store);
    let told = Told::default();
    let dir = world.dir.path();
    let event = tokio::select! {
        never = world.looks.go_on(&told) => match never {},
        event = async {
            while !asked(dir) {
                tokio::task::yield_now().await;
            }
            assert!(world.heard.is_empty(), "nothing has changed");
            says(dir, "db 17 b");
            tokio::time::timeout(LONG, world.heard.recv()).await
        } => event.expect("in time"),
    };
    assert_eq!(event, Some(Event::SaysAnew));
    assert!(store.tells_again());
}

#[test]
fn a_store_that_is_silent_while_the_host_comes_is_told_to_the_hook() {
    let store = Store::default();
    for _ in 1..FAILURES_MAX {
        store.not_asked();
        assert!(!store.tells_again(), "it may just be slow");
    }
    store.not_asked();
    assert!(store.tells_again());
    store.not_asked();
    assert!(!store.tells_again(), "not each time");
    store.came(store.ticket(), said("db 17 a"));
    store.not_asked();
    store.not_asked();
    assert!(!store.tells_again(), "it has answered meanwhile");
}

#[tokio::test]
async fn nobody_is_looked_at_where_something_is_begun_or_runs() {
    let mut world = world();
    let told = Told::default();
    let dir = world.dir.path().to_owned();
    says(&dir, "db 17 b");
    world.rests.send_replace(false);
    let waits = tokio::time::timeout(LOOK_EVERY * 2, world.looks.go_on(&told));
    assert!(waits.await.is_err() && !asked(&dir));
    world.rests.send_replace(true);
    let runs = Arc::clone(&world.looks.last).lock_owned().await;
    let waits = tokio::time::timeout(LOOK_EVERY * 2, world.looks.go_on(&told));
    assert!(waits.await.is_err() && !asked(&dir));
    drop(runs);
    let comes = tokio::time::timeout(LONG, world.heard.recv());
    tokio::select! {
        never = world.looks.go_on(&told) => match never {},
        event = comes => assert_eq!(event, Ok(Some(Event::SaysAnew))),
    }
}

#[tokio::test]
async fn a_look_that_hangs_is_killed_when_something_is_to_be_begun() {
    let mut world = world();
    let told = Told::default();
    let dir = world.dir.path();
    let started = hangs(dir, "position");
    let last = Arc::clone(&world.looks.last);
    let begun = async {
        while !started.exists() {
            tokio::task::yield_now().await;
        }
        assert!(last.try_lock().is_err(), "no hook and no program begins");
        world.rests.send_replace(false);
        tokio::time::timeout(LONG, last.lock()).await.map(drop)
    };
    tokio::select! {
        never = world.looks.go_on(&told) => match never {},
        begun = begun => begun.expect("long before its time is over"),
    }
    free(dir);
}
