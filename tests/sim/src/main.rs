//! `sim`: runs seeds and tells what happened.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cfgsvc_sim::defect::Defect;
use cfgsvc_sim::plan::Plan;
use cfgsvc_sim::run::{Report, run};
use clap::Parser;

/// The command that repeats a seed, but for the seed.
const AGAIN: &str = "cargo run -p cfgsvc-sim --release --";

thread_local! {
    /// The seed that this thread runs.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// A seed that takes longer is worth a look.
const SLOW: Duration = Duration::from_secs(10);

/// Runs whole groups under seeded faults.
#[derive(Parser)]
struct Arguments {
    /// Run one seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run seeds, as FIRST..END.
    #[arg(long, value_parser = seeds, default_value = "0..1000")]
    seeds: (u64, u64),
    /// Threads; each runs a seed at a time.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Stop after so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Put a defect in, to see that it is found; the first failure ends the run.
    #[arg(long, value_enum)]
    defect: Option<Defect>,
    /// Print every event.
    #[arg(long)]
    verbose: bool,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let (first, end) = text.split_once("..").ok_or("expected FIRST..END")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok((number(first)?, number(end)?))
}

/// What all runs were together.
#[derive(Default)]
struct Total {
    runs: u64,
    failures: Vec<Report>,
    counts: BTreeMap<&'static str, u64>,
    /// Runs in which it happened at all.
    runs_with: BTreeMap<&'static str, u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic in a run is a finding of its seed. A release build ends here, so say it now.
    std::panic::set_hook(Box::new(|panic| {
        let seed = SEED.get();
        say(&format!(
            "seed {seed}: {panic}\nagain: {AGAIN} --seed {seed} --verbose"
        ));
    }));
    let (first, end) = match arguments.seed {
        Some(seed) => (seed, seed + 1),
        None => arguments.seeds,
    };
    let begun = Instant::now();
    let total = Mutex::new(Total::default());
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| work(&arguments, begun, end, &next, &stop, &total));
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let told = tell(&arguments, &total, begun.elapsed());
    if told.is_ok() && total.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn work(
    arguments: &Arguments,
    begun: Instant,
    end: u64,
    next: &AtomicU64,
    stop: &AtomicBool,
    total: &Mutex<Total>,
) {
    let limit = arguments.minutes.map(Duration::from_mins);
    while !stop.load(Ordering::Relaxed) {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end || limit.is_some_and(|limit| begun.elapsed() > limit) {
            return;
        }
        SEED.set(seed);
        let started = Instant::now();
        let report = run(Plan::new(seed, arguments.defect), arguments.verbose);
        if let Some(why) = &report.failure {
            say(&format!("seed {seed} failed: {why}"));
        }
        if started.elapsed() > SLOW {
            say(&format!("seed {seed} took {:?}", started.elapsed()));
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.runs += 1;
        for (what, count) in &report.counts {
            *total.counts.entry(what).or_default() += count;
            *total.runs_with.entry(what).or_default() += u64::from(*count > 0);
        }
        if total.runs.is_multiple_of(500) {
            progress(total.runs, total.failures.len(), begun.elapsed());
        }
        if report.failure.is_some() || arguments.verbose {
            stop.store(!arguments.keep_going, Ordering::Relaxed);
            total.failures.push(report);
        }
    }
}

fn progress(runs: u64, failures: usize, took: Duration) {
    let rate = runs as f64 / took.as_secs_f64();
    say(&format!(
        "{runs} seeds, {failures} failed, {rate:.1} seeds/s"
    ));
}

fn say(text: &str) {
    // Nobody may be listening.
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn tell(arguments: &Arguments, total: &Total, took: Duration) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for report in &total.failures {
        for line in &report.lines {
            writeln!(out, "{line}")?;
        }
        match &report.failure {
            Some(why) => writeln!(out, "seed {} failed: {why}", report.seed)?,
            None => writeln!(out, "seed {} is sound", report.seed)?,
        }
        let defect = match arguments.defect {
            Some(defect) => {
                use clap::ValueEnum as _;
                let value = defect.to_possible_value();
                format!(
                    " --defect {}",
                    value.map_or(String::new(), |v| v.get_name().to_owned())
                )
            }
            None => String::new(),
        };
        writeln!(
            out,
            "trace {:016x}, {} events, {:?} of virtual time\n\
             again: {AGAIN} --seed {}{defect} --verbose\n",
            report.trace_hash, report.events, report.virtual_time, report.seed
        )?;
    }
    writeln!(out, "{:>12} {:>8}  what happened", "times", "in runs")?;
    for (what, count) in &total.counts {
        let runs = total.runs_with.get(what).copied().unwrap_or(0);
        writeln!(out, "{count:>12} {runs:>8}  {what}")?;
    }
    let rate = total.runs as f64 / took.as_secs_f64();
    let failed = total
        .failures
        .iter()
        .filter(|report| report.failure.is_some());
    writeln!(
        out,
        "{} seeds, {} failed, {:.1} s, {rate:.1} seeds/s",
        total.runs,
        failed.count(),
        took.as_secs_f64()
    )
}
