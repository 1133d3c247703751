//! Any program as a job, by the conventions of Hadoop Streaming: lines on its standard input, lines
//! `key TAB value` from its standard output; counters and words on its standard error; what it
//! works on in its environment; an exit code other than 0 has failed.

use super::pipe::Pipe;
use clap::Parser;
use mapreduce::engine::task::TaskError;
use mapreduce::{AnyJob, Bytes, Emit, Job, Lines, Mapper, Reducer, Result, U64, Values};
use std::sync::Arc;

/// Of a streaming job.
#[derive(Debug, Clone, Parser)]
#[command(name = "streaming", no_binary_name = true, disable_help_flag = true)]
pub(crate) struct Programs {
    /// Reads the lines of the input
    #[arg(long)]
    mapper: String,
    /// Reads `key TAB value`, in the order of keys
    #[arg(long, default_value = "cat")]
    reducer: String,
    /// Reads `key TAB value` of a part of what a mapper gave, in the order of keys, and gives less
    #[arg(long)]
    combiner: Option<String>,
    /// A variable of the environment of all, NAME=VALUE
    #[arg(long = "cmdenv", value_parser = variable)]
    pub(crate) environment: Vec<(String, String)>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is wanted")?;
    Ok((name.to_owned(), value.to_owned()))
}

struct Mapping {
    programs: Arc<Programs>,
    /// The file that the program is told of in its environment: each of several small files of a
    /// task has a program of its own.
    input: String,
    /// Where the last line begins that it was given.
    at: u64,
    pipe: Option<Pipe>,
}

impl Mapping {
    /// Ends the program of a file. The task may be at the next one: an error says which it was.
    fn end(&mut self, out: &mut Emit<'_, Bytes, Bytes>) -> Result<()> {
        let Some(mut pipe) = self.pipe.take() else {
            return Ok(());
        };
        let finished = pipe.finish(out);
        let finished = finished.map_err(|error| match error.downcast::<TaskError>() {
            Ok(known) => *known,
            Err(source) => TaskError::Function {
                function: "map",
                name: self.input.clone(),
                offset: self.at,
                source,
            },
        });
        Ok(finished?)
    }
}

impl Mapper for Mapping {
    type InKey = U64;
    type InValue = Bytes;
    type Key = Bytes;
    type Value = Bytes;

    fn map(&mut self, at: u64, line: &[u8], out: &mut Emit<'_, Bytes, Bytes>) -> Result<()> {
        if out.context().input() != self.input {
            self.end(out)?;
            out.context().input().clone_into(&mut self.input);
        }
        self.at = at;
        let programs = &self.programs;
        let pipe = Pipe::started(&mut self.pipe, &programs.mapper, programs, true, out)?;
        pipe.write(&[line, b"\n"], out)
    }

    fn finish(&mut self, out: &mut Emit<'_, Bytes, Bytes>) -> Result<()> {
        if self.pipe.is_none() {
            // There was no line.
            let (context, programs) = (out.context(), &self.programs);
            context.input().clone_into(&mut self.input);
            self.at = context.offset();
            Pipe::started(&mut self.pipe, &programs.mapper, programs, true, out)?;
        }
        self.end(out)
    }
}

/// A reducer, or a combiner, which is run in map tasks.
struct Reducing {
    programs: Arc<Programs>,
    command: String,
    is_map: bool,
    pipe: Option<Pipe>,
}

impl Reducer for Reducing {
    type Key = Bytes;
    type Value = Bytes;
    type OutKey = Bytes;
    type OutValue = Bytes;

    fn reduce(
        &mut self,
        key: &[u8],
        values: &mut Values<'_, Bytes>,
        out: &mut Emit<'_, Bytes, Bytes>,
    ) -> Result<()> {
        let programs = &self.programs;
        let (command, is_map) = (&self.command, self.is_map);
        let pipe = Pipe::started(&mut self.pipe, command, programs, is_map, out)?;
        while let Some(value) = values.next()? {
            pipe.write(&[key, b"\t", value, b"\n"], out)?;
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Emit<'_, Bytes, Bytes>) -> Result<()> {
        let (programs, command) = (&self.programs, &self.command);
        Pipe::started(&mut self.pipe, command, programs, self.is_map, out)?.finish(out)
    }
}

/// The job.
pub(crate) fn job() -> AnyJob {
    let usage = "--mapper COMMAND [--combiner COMMAND] [--reducer COMMAND] [--cmdenv NAME=VALUE]";
    let about = "any program, as Hadoop Streaming runs it";
    AnyJob::with_arguments("streaming", usage, about, |arguments| {
        let programs = Programs::try_parse_from(arguments).map_err(first_line)?;
        let programs = Arc::new(programs);
        let reducing = |command: &str, is_map| {
            let (programs, command) = (Arc::clone(&programs), command.to_owned());
            move || Reducing {
                programs: Arc::clone(&programs),
                command: command.clone(),
                is_map,
                pipe: None,
            }
        };
        let combiner = programs.combiner.as_deref();
        let combiner = combiner.map(|command| reducing(command, true));
        let reducer = reducing(&programs.reducer, false);
        let mapper = move || Mapping {
            programs: Arc::clone(&programs),
            input: String::new(),
            at: 0,
            pipe: None,
        };
        let job = Job::new("streaming", Lines, mapper, reducer);
        Ok(match combiner {
            Some(combiner) => job.combine_by(combiner),
            None => job,
        })
    })
}

/// What was wrong, without how it is used, which is said by who shows it.
fn first_line(error: clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().take_while(|line| !line.is_empty());
    let line: Vec<&str> = line.map(str::trim).collect();
    line.join(" ").trim_start_matches("error: ").to_owned()
}
