//! When the hook `check` is run, and what its failures come to.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::pin::Pin;
use std::process::Command;

use tempfile::TempDir;

use super::super::hooks::tests::{dir, free, hangs, hook, hooks};
use super::*;

const LONG: Duration = Duration::from_mins(1);

/// As often as can be.
const CHECKS: Checks = Checks {
    interval: Duration::from_millis(1),
    timeout: LONG,
    failures: 3,
};

/// A host that serves.
struct World {
    dir: TempDir,
    hooks: Hooks,
    told: Told,
    board: Board,
    /// What is written here, a line for each run, is what the hook `check` ends with. Without a
    /// line, it waits.
    codes: File,
}

impl World {
    fn new() -> Self {
        let dir = dir();
        let at = |name| dir.path().join(name);
        let (codes, runs) = (at("codes"), at("runs"));
        let made = Command::new("mkfifo")
            .arg(&codes)
            .status()
            .expect("it runs");
        assert!(made.success(), "mkfifo: {made}");
        let script = format!(
            "echo run >> {}; read -r code < {}; exit $code",
            runs.display(),
            codes.display()
        );
        hook(dir.path(), "check", &script);
        // Read and write: nobody who opens it waits for another.
        let codes = OpenOptions::new().read(true).write(true).open(codes);
        Self {
            hooks: hooks(dir.path()),
            dir,
            told: Told::default(),
            board: Board::default(),
            codes: codes.expect("it is there"),
        }
    }

    fn beside<'a>(&'a self, events: &'a mpsc::Sender<Event>) -> Beside<'a> {
        Beside {
            hooks: &self.hooks,
            told: &self.told,
            board: &self.board,
            events,
        }
    }

    fn ends_with(&self, codes: &str) {
        (&self.codes)
            .write_all(codes.as_bytes())
            .expect("there is room");
    }

    fn runs(&self) -> usize {
        let runs = fs::read_to_string(self.dir.path().join("runs"));
        runs.map_or(0, |text| text.lines().count())
    }

    fn problem(&self) -> Option<String> {
        let mut status = self.board.role(&self.hooks.role)?;
        status.problems.remove(&Part::Check)
    }
}

/// Goes on with it until this is so.
async fn until(mut beside: Pin<&mut impl Future<Output = ()>>, so: impl Fn() -> bool) {
    let so = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = beside.as_mut() => panic!("it is over"),
        so = tokio::time::timeout(LONG, so) => so.expect("in time"),
    }
}

#[tokio::test]
async fn a_role_is_given_up_after_failures_in_a_row_and_not_before() {
    let world = World::new();
    let (events, mut heard) = mpsc::channel(1);
    let (_stage, staged) = watch::channel(Stage::Up);
    world.ends_with("1\n1\n0\n1\n1\n0\n4\n4\n4\n");
    world.beside(&events).run((CHECKS, None), staged).await;
    assert_eq!(world.runs(), 9);
    let why = "check failed: hook check: exit status: 4, 3 times in a row";
    assert_eq!(heard.try_recv(), Ok(Event::Failed(why.to_owned())));
    let problem = world.problem();
    assert!(problem.is_some_and(|said| said.starts_with(why)));
}

#[tokio::test]
async fn a_failure_is_shown_until_the_next_success() {
    let world = World::new();
    let (events, _heard) = mpsc::channel(1);
    let (_stage, staged) = watch::channel(Stage::Up);
    let mut beside = std::pin::pin!(world.beside(&events).run((CHECKS, None), staged));
    world.ends_with("1\n");
    let shown = || {
        world
            .problem()
            .is_some_and(|said| said.ends_with("failure 1 of 3 in a row"))
    };
    until(beside.as_mut(), shown).await;
    world.ends_with("0\n");
    until(beside.as_mut(), || world.problem().is_none()).await;
}

#[tokio::test]
async fn nothing_is_checked_before_what_serves_is_up() {
    let world = World::new();
    let (events, _heard) = mpsc::channel(1);
    let (stage, staged) = watch::channel(Stage::Starting);
    let mut beside = std::pin::pin!(world.beside(&events).run((CHECKS, None), staged));
    for at in [Stage::Starting, Stage::Begun] {
        stage.send_replace(at);
        // Many times the interval.
        let waits = tokio::time::timeout(Duration::from_millis(50), beside.as_mut());
        waits.await.expect_err("it waits");
        assert_eq!(world.runs(), 0);
    }
    stage.send_replace(Stage::Up);
    until(beside.as_mut(), || world.runs() == 1).await;
}

#[tokio::test]
async fn a_check_that_hangs_is_killed_at_once_when_the_serving_is_over() {
    let world = World::new();
    let started = hangs(world.dir.path(), "check");
    let (events, mut heard) = mpsc::channel(1);
    let (stage, staged) = watch::channel(Stage::Up);
    let mut beside = std::pin::pin!(world.beside(&events).run((CHECKS, None), staged));
    until(beside.as_mut(), || started.exists()).await;
    stage.send_replace(Stage::Over);
    // Long before its own time is over.
    let over = tokio::time::timeout(LONG / 2, beside.as_mut()).await;
    over.expect("nothing is waited for");
    free(world.dir.path());
    assert!(heard.try_recv().is_err(), "nothing has failed");
}
