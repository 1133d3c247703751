//! Chains: jobs whose input is the output of others, in a TOML file.
//!
//! ```toml
//! [[step]]
//! name = "count"
//! job = "wordcount"
//! input = ["books"]
//!
//! [[step]]
//! name = "order"
//! job = "sort"
//! input = ["step:count"]
//! output = "ordered"
//! ```
//!
//! All that can be wrong with a file is found before anything runs, and said with its line.

mod command;
mod finished;
mod group;
mod here;
mod record;
mod run;

pub(crate) use command::{Args, End, INTERRUPTED, Submitted, command, submitted};
pub(crate) use group::Followed;

use crate::job::Code;
use crate::{AnyJob, Result};
use mapreduce_core::spec::OutputFormat;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;

/// What names another step's output.
const STEP: &str = "step:";
/// Characters of a step's name, which is the name of a directory too.
const NAME_MAX: usize = 64;

/// Steps, in an order in which they can run.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) steps: Vec<Step>,
}

/// A job with its input and output.
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) spec: Spec,
    code: Arc<dyn Code>,
    inputs: Vec<Input>,
    keep: bool,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a step does, as its record has it: a step with another one is another step.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Spec {
    job: String,
    arguments: Vec<String>,
    input: Vec<String>,
    reduces: Option<u32>,
    split_octets: Option<u64>,
    /// How the output is written, instead of what the job says.
    format: Option<OutputFormat>,
    /// None: in the work directory.
    output: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Input {
    /// A path, a glob or a URL.
    Named(String),
    /// The output of a step, by its place among all.
    Step(usize),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    step: Vec<WrittenStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    name: Spanned<String>,
    job: Spanned<String>,
    #[serde(default)]
    arguments: Vec<String>,
    input: Vec<Spanned<String>>,
    reduces: Option<Spanned<u32>>,
    format: Option<OutputFormat>,
    output: Option<Spanned<PathBuf>>,
    #[serde(default)]
    keep: bool,
}

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {what}", file.display())]
pub(crate) struct ChainError {
    file: PathBuf,
    line: usize,
    what: String,
}

/// A file that is read.
struct Reading<'a> {
    file: &'a Path,
    text: &'a str,
    jobs: &'a [AnyJob],
    split_octets: Option<u64>,
}

impl Chain {
    /// Reads and checks a file.
    pub(crate) fn read(file: &Path, jobs: &[AnyJob], split_octets: Option<u64>) -> Result<Self> {
        let text = fs_err::read_to_string(file)?;
        let reading = Reading {
            file,
            text: &text,
            jobs,
            split_octets,
        };
        Ok(reading.chain()?)
    }
}

impl Reading<'_> {
    fn wrong(&self, at: Range<usize>, what: impl Display) -> ChainError {
        let before = self.text.as_bytes().iter().take(at.start);
        ChainError {
            file: self.file.to_owned(),
            line: 1 + before.filter(|octet| **octet == b'\n').count(),
            what: what.to_string(),
        }
    }

    fn chain(&self) -> Result<Chain, ChainError> {
        let written: Written = toml::from_str(self.text)
            .map_err(|error| self.wrong(error.span().unwrap_or(0..0), error.message()))?;
        if written.step.is_empty() {
            return Err(self.wrong(0..0, "there is no [[step]]"));
        }
        let mut names = HashMap::new();
        let mut outputs = HashMap::new();
        for (at, step) in written.step.iter().enumerate() {
            let (name, span) = (step.name.get_ref(), step.name.span());
            check_name(name).map_err(|what| self.wrong(span.clone(), what))?;
            if names.insert(name.as_str(), at).is_some() {
                return Err(self.wrong(span, format!("a second step is named {name}")));
            }
            if let Some(output) = &step.output
                && outputs.insert(output.get_ref().clone(), at).is_some()
            {
                let path = output.get_ref().display();
                let what = format!("a second step has the output {path}");
                return Err(self.wrong(output.span(), what));
            }
        }
        let steps = written.step.iter().map(|step| self.step(step, &names));
        let steps = steps.collect::<Result<Vec<_>, _>>()?;
        let order = order(&steps).map_err(|at| {
            let name = &steps[at].name;
            let what = format!("step {name} waits for its own output: a cycle");
            self.wrong(written.step[at].name.span(), what)
        })?;
        Ok(Chain {
            steps: in_order(steps, &order),
        })
    }

    fn step(&self, step: &WrittenStep, names: &HashMap<&str, usize>) -> Result<Step, ChainError> {
        let job = self.jobs.iter().find(|job| job.name == *step.job.get_ref());
        let job = job.ok_or_else(|| {
            let names: Vec<&str> = self.jobs.iter().map(|job| job.name.as_str()).collect();
            let (name, names) = (step.job.get_ref(), names.join(", "));
            let what = format!("no job is named {name}; there are {names}");
            self.wrong(step.job.span(), what)
        })?;
        let code = job.make(&step.arguments).map_err(|error| {
            let what = format!("job {}: {error}; arguments: {}", job.name, job.usage);
            self.wrong(step.job.span(), what)
        })?;
        if let Some(reduces) = &step.reduces
            && (code.is_map_only() || *reduces.get_ref() == 0)
        {
            let what = if code.is_map_only() {
                "the job has no reduce: leave reduces out"
            } else {
                "the job has a reduce, which needs at least 1 task"
            };
            return Err(self.wrong(reduces.span(), what));
        }
        let inputs = step.input.iter().map(|input| self.input(input, names));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        if inputs.is_empty() {
            return Err(self.wrong(step.name.span(), "the step has no input"));
        }
        let spec = Spec {
            job: job.name.clone(),
            arguments: step.arguments.clone(),
            input: step
                .input
                .iter()
                .map(|input| input.get_ref().clone())
                .collect(),
            reduces: step.reduces.as_ref().map(|reduces| *reduces.get_ref()),
            split_octets: self.split_octets,
            format: step.format,
            output: step.output.as_ref().map(|output| output.get_ref().clone()),
        };
        Ok(Step {
            name: step.name.get_ref().clone(),
            spec,
            code,
            inputs,
            keep: step.keep,
        })
    }

    fn input(
        &self,
        input: &Spanned<String>,
        names: &HashMap<&str, usize>,
    ) -> Result<Input, ChainError> {
        let Some(name) = input.get_ref().strip_prefix(STEP) else {
            return Ok(Input::Named(input.get_ref().clone()));
        };
        match names.get(name) {
            Some(step) => Ok(Input::Step(*step)),
            None => Err(self.wrong(input.span(), format!("no step is named {name}"))),
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let is_part = |octet: u8| octet.is_ascii_alphanumeric() || b"-_".contains(&octet);
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_part) {
        return Ok(());
    }
    Err(format!(
        "a step's name has 1 to {NAME_MAX} letters, digits, - and _: found {name:?}"
    ))
}

/// Places of steps such that each comes after those that it reads from; else one of a cycle.
fn order(steps: &[Step]) -> Result<Vec<usize>, usize> {
    let mut order = Vec::new();
    while order.len() < steps.len() {
        let is_ready = |step: &Step| {
            let mut inputs = step.inputs.iter();
            inputs.all(|input| match input {
                Input::Named(_) => true,
                Input::Step(from) => order.contains(from),
            })
        };
        let left = (0..steps.len()).filter(|at| !order.contains(at));
        let (ready, waiting): (Vec<_>, Vec<_>) = left.partition(|at| is_ready(&steps[*at]));
        if ready.is_empty() {
            return Err(in_cycle(steps, &waiting));
        }
        order.extend(ready);
    }
    Ok(order)
}

/// A step of a cycle, of those that wait: each waits for another of them.
fn in_cycle(steps: &[Step], waiting: &[usize]) -> usize {
    let mut at = waiting[0];
    let mut seen = vec![false; steps.len()];
    while !std::mem::replace(&mut seen[at], true) {
        let before = steps[at].inputs.iter().find_map(|input| match input {
            Input::Step(before) if waiting.contains(before) => Some(*before),
            Input::Step(_) | Input::Named(_) => None,
        });
        at = before.expect("it waits for one that waits");
    }
    at
}

fn in_order(steps: Vec<Step>, order: &[usize]) -> Vec<Step> {
    let mut places = vec![0; steps.len()];
    for (to, from) in order.iter().enumerate() {
        places[*from] = to;
    }
    let mut placed: Vec<(usize, Step)> = places.iter().copied().zip(steps).collect();
    placed.sort_by_key(|(to, _)| *to);
    let mut steps: Vec<Step> = placed.into_iter().map(|(_, step)| step).collect();
    for step in &mut steps {
        for input in &mut step.inputs {
            if let Input::Step(from) = input {
                *from = places[*from];
            }
        }
    }
    steps
}
