//! Masters, workers and members of the group that are killed, stopped and cut off in every phase,
//! and come back: the output is what one machine gives, octet for octet, and is published once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{binary_path, eventually, eventually_some};
use rustix::process::Signal;

use super::{PATIENCE, Place, parts, text};
use crate::disk::SmallDisk;
use crate::seeds::{Numbers, lasts, setting};

/// To whom something happens.
#[derive(Clone, Copy, Debug)]
enum Who {
    Worker,
    Master,
    /// A member of the group.
    Group,
}

/// What happens, and is undone.
#[derive(Clone, Copy, Debug)]
enum How {
    Kill,
    Pause,
    Cut,
}

const FAULTS: [(Who, How); 8] = [
    (Who::Worker, How::Kill),
    (Who::Worker, How::Pause),
    (Who::Worker, How::Cut),
    (Who::Master, How::Kill),
    (Who::Master, How::Pause),
    (Who::Master, How::Cut),
    (Who::Group, How::Kill),
    (Who::Group, How::Pause),
];

fn strike(place: &mut Place, fault: (Who, How), which: usize, time: Duration) -> Result<()> {
    let directory = place.directory();
    let members = match fault.0 {
        Who::Worker => &mut place.workers,
        Who::Master => &mut place.masters,
        Who::Group => {
            let which = which % place.cluster.count();
            let is_killed = matches!(fault.1, How::Kill);
            let cluster = &mut place.cluster;
            if is_killed {
                cluster.kill(which)?;
                lasts(time);
                return cluster.restart(which);
            }
            cluster.pause(which)?;
            lasts(time);
            return cluster.resume(which);
        }
    };
    let which = which % members.len();
    let member = members.get_mut(which).context("it is there")?;
    match fault.1 {
        How::Kill => {
            member.kill();
            lasts(time);
            member.start(&directory)
        }
        How::Pause => {
            member.signal(Signal::STOP)?;
            lasts(time);
            member.signal(Signal::CONT)
        }
        How::Cut => {
            member.cut();
            lasts(time);
            member.heal();
            Ok(())
        }
    }
}

/// A job under so many faults at most; how long it took, and which there were.
fn trial(seed: u64, faults: usize) -> Result<(Duration, Vec<(Who, How)>)> {
    let mut numbers = Numbers::new(seed);
    let mut place = Place::start(3, 2, 3)?;
    let input = place.input("text", text(seed, 9_000))?;
    let settings = ["--input", &input, "--split-size", "20k", "--reduces", "4"];
    let expected = place.run_here("mapreduce", &["wordcount"], &settings)?;
    let began = Instant::now();
    let mut submitted = place.begin("test-jobs", &["slow"], &settings)?;
    let mut done = Vec::new();
    for _ in 0..faults {
        lasts(Duration::from_millis(numbers.below(2_500)));
        if submitted.0.try_wait()?.is_some() {
            break;
        }
        let fault = *numbers.one_of(&FAULTS);
        // Some are shorter than leases and terms of office, some longer.
        let time = Duration::from_millis(500 + numbers.below(8_000));
        let which = usize::try_from(numbers.below(16))?;
        strike(&mut place, fault, which, time)?;
        done.push(fault);
    }
    let ended = eventually_some(3 * PATIENCE, "the job", || {
        submitted.0.try_wait().ok().flatten()
    });
    let check = || -> Result<()> {
        ensure!(ended?.success(), "the job failed");
        ensure!(
            parts(&place.path("there"))? == expected,
            "it gives something else"
        );
        place.is_clean("there")
    };
    let submit = std::fs::read_to_string(place.path("submit.log"))?;
    check().with_context(|| format!("{done:?}\n{submit}\n{}", place.logs()))?;
    Ok((began.elapsed(), done))
}

#[test]
fn long_jobs_give_the_same_whatever_fails() {
    let (first, count) = (setting("MAPREDUCE_SEED", 1), setting("MAPREDUCE_ROUNDS", 3));
    let (undisturbed, _) = trial(first, 0).unwrap_or_else(|error| panic!("no fault: {error:#}"));
    eprintln!("undisturbed: {undisturbed:.1?}");
    for seed in first..first + count {
        match trial(seed, 4) {
            Ok((took, faults)) => {
                let lost = took.saturating_sub(undisturbed);
                eprintln!("seed {seed}: {took:.1?}, {lost:.1?} lost by {faults:?}");
            }
            Err(error) => panic!(
                "{error:#}\nrepeat it with MAPREDUCE_SEED={seed} MAPREDUCE_ROUNDS=1 \
                 tests/run long_jobs_give_the_same"
            ),
        }
    }
}

#[test]
fn function_that_gives_something_else_each_time_is_found_out() {
    let mut place = Place::start(1, 1, 2).expect("a group");
    let input = place.input("text", text(1, 6000)).expect("a file");
    let settings = ["--input", &input, "--split-size", "30k", "--reduces", "4"];
    let mut submitted = place
        .begin("test-jobs", &["random"], &settings)
        .expect("it starts");
    // Two reduces are done, two run: that of the worker that is killed runs again, and so do maps.
    let what = "two reduces to be done";
    eventually(PATIENCE, what, || {
        let listed = place.mapreduce(&["list"]).map(|ran| ran.stdout);
        listed.is_ok_and(|listed| listed.contains("2/4"))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
    place.workers[0].kill();
    let ended = eventually_some(PATIENCE, "the job", || {
        submitted.0.try_wait().ok().flatten()
    });
    let said = std::fs::read_to_string(place.path("submit.log")).expect("a log");
    let logs = place.logs();
    assert_eq!(ended.expect("it ends").code(), Some(1), "{said}\n{logs}");
    assert!(said.contains("not deterministic"), "{said}\n{logs}");
    place.is_clean("there").expect("nothing is left");
}

#[test]
fn full_disk_of_a_worker_costs_time_and_one_for_the_output_the_job() {
    let disk = SmallDisk::mount(64);
    let mut place = Place::start(1, 1, 1).expect("a group");
    place.add_worker(&disk.path, &[]).expect("a worker");
    let log = place.path("worker1.log");
    eventually(PATIENCE, "a second worker", || {
        std::fs::read_to_string(&log).is_ok_and(|log| log.contains("is a member"))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
    let filler = disk.fill(8 << 10);
    let input = place.input("text", text(1, 5000)).expect("a file");
    let settings = ["--input", &input, "--split-size", "30k", "--reduces", "2"];
    let same = place.same("mapreduce", &["wordcount"], &settings);
    same.unwrap_or_else(|error| panic!("{error:#}\n{}", place.logs()));
    std::fs::remove_file(filler).expect("it is removed");
    let output = disk.path.join("out").display().to_string();
    let arguments = ["submit", "wordcount", "--output", &output];
    let mut submit = place
        .command("mapreduce", &[&arguments[..], &settings].concat())
        .expect("a command");
    // The program that is left for workers takes some of the disk: there is room for that alone.
    let program = std::fs::metadata(binary_path("mapreduce").expect("it is built"));
    disk.fill(program.expect("a file").len() + (16 << 10));
    let ran = cfgsvc_tests::harness::run(&mut submit).expect("it ends");
    assert_eq!(ran.code, Some(1), "{ran}\n{}", place.logs());
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("No space left on device"), "{ran}");
    eventually(PATIENCE, "nothing to be left of the output", || {
        let left = std::fs::read_dir(&disk.path).expect("a directory");
        let mut names = left.flatten().map(|entry| entry.file_name());
        names.all(|name| name == "filler" || name == "worker1")
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
}
