//! What becomes of the records that a map function emits: they are folded or sorted in memory,
//! spilled when that is full, and merged into one run at the end. Or, when there is no reduce, they
//! are the output.

use crate::api::{Ref, Sink};
use crate::engine::output::{Output, Written};
use crate::engine::spill::{self, Run, Spills};
use crate::engine::task::Context;
use crate::{Codec, Combine, Result};
use mapreduce_data::RunError;
use mapreduce_data::fold::{FoldBuffer, SUM_MAX};
use mapreduce_data::merge::{Cursor, Groups};
use mapreduce_data::partition::hash;
use mapreduce_data::run::RunWriter;
use mapreduce_data::sort::SortBuffer;
use std::io::Write;
use std::marker::PhantomData;
use std::sync::Arc;

/// The partition of a key, of its octets and their hash.
pub(crate) type PartitionOf = Arc<dyn Fn(&[u8], u64) -> Result<u32> + Send + Sync>;

/// What a map task has collected.
#[derive(Debug)]
pub(crate) enum Collected {
    /// A run with a region for each partition, and octets that were spilled on the way.
    Run(Run, u64),
    /// The output itself.
    Output(Written),
}

/// Collects what is emitted.
pub(crate) trait Collect<K: Codec, V: Codec>: Sink<K, V> {
    /// Ends, with all that was collected, and counts what only it knows.
    fn finish(self: Box<Self>, context: &mut Context) -> Result<Collected>;
}

/// Without a combiner.
pub(crate) struct Sorted<K, V> {
    pub(crate) buffer: SortBuffer,
    pub(crate) partition: PartitionOf,
    pub(crate) spills: Spills,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) of: PhantomData<(K, V)>,
}

impl<K: Codec, V: Codec> Sink<K, V> for Sorted<K, V> {
    fn emit(&mut self, key: Ref<'_, K>, value: Ref<'_, V>) -> Result<()> {
        let (buffer, partition) = (&mut self.buffer, &self.partition);
        let full = K::with(key, &mut self.key, |key| -> Result<bool> {
            let partition = partition(key, hash(key))?;
            V::with(value, &mut self.value, |value| {
                Ok(buffer.push(partition, key, value)?)
            })
        })?;
        if full {
            let buffer = &mut self.buffer;
            self.spills.spill(|run| buffer.write(run))?;
        }
        Ok(())
    }
}

impl<K: Codec, V: Codec> Collect<K, V> for Sorted<K, V> {
    fn finish(self: Box<Self>, _context: &mut Context) -> Result<Collected> {
        let mut buffer = self.buffer;
        let is_empty = buffer.is_empty();
        let write = |run: &mut RunWriter<_>| buffer.write(run);
        let (run, spilled) = self.spills.finish(is_empty, write, spill::copy)?;
        Ok(Collected::Run(run, spilled))
    }
}

/// With a combiner.
pub(crate) struct Folded<K, C: Combine> {
    pub(crate) buffer: FoldBuffer<C>,
    /// Another one, for what was spilled.
    pub(crate) again: C,
    pub(crate) partition: PartitionOf,
    pub(crate) spills: Spills,
    pub(crate) key: Vec<u8>,
    pub(crate) of: PhantomData<K>,
}

/// Writes a buffer; a partition that is refused ends it with the reason.
fn write_folded<C: Combine>(
    buffer: &mut FoldBuffer<C>,
    partition: &PartitionOf,
    refused: &mut Option<crate::Error>,
    run: &mut RunWriter<impl Write>,
) -> Result<(), RunError> {
    buffer.write(run, |key, hash| match partition(key, hash) {
        Ok(partition) => partition,
        Err(error) => {
            refused.get_or_insert(error);
            0
        }
    })
}

impl<K: Codec, C: Combine> Sink<K, C::Value> for Folded<K, C> {
    fn emit(&mut self, key: Ref<'_, K>, value: Ref<'_, C::Value>) -> Result<()> {
        let buffer = &mut self.buffer;
        let full = K::with(key, &mut self.key, |key| buffer.push(key, value))?;
        if full {
            let mut refused = None;
            let (buffer, partition) = (&mut self.buffer, &self.partition);
            self.spills
                .spill(|run| write_folded(buffer, partition, &mut refused, run))?;
            refused.map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}

impl<K: Codec, C: Combine> Collect<K, C::Value> for Folded<K, C> {
    fn finish(self: Box<Self>, _context: &mut Context) -> Result<Collected> {
        let Self {
            mut buffer,
            again,
            partition,
            spills,
            ..
        } = *self;
        let mut refused = None;
        let is_empty = buffer.is_empty();
        let write =
            |run: &mut RunWriter<_>| write_folded(&mut buffer, &partition, &mut refused, run);
        let fold =
            |partition, merged, run: &mut RunWriter<_>| fold_groups(&again, partition, merged, run);
        let (run, spilled) = spills.finish(is_empty, write, fold)?;
        refused.map_or(Ok(Collected::Run(run, spilled)), Err)
    }
}

/// Puts the values of each key together, and writes them.
fn fold_groups<C: Combine>(
    combine: &C,
    partition: u32,
    from: impl Cursor,
    to: &mut RunWriter<impl Write>,
) -> Result<(), RunError> {
    let mut groups = Groups::new(from);
    let mut octets = Vec::new();
    while groups.advance()? {
        let (key, mut values) = groups.group();
        let mut sum: Option<C::Sum> = None;
        while let Some(value) = values.advance()? {
            let value = C::Value::decode(value)?;
            match &mut sum {
                Some(sum) => combine.add(sum, value),
                None => sum = Some(combine.first(value)),
            }
            if let Some(full) = sum.take_if(|sum| combine.memory(sum) > SUM_MAX) {
                octets.clear();
                combine.write(&full, &mut octets);
                to.push(partition, key, &octets)?;
            }
        }
        if let Some(sum) = sum {
            octets.clear();
            combine.write(&sum, &mut octets);
            to.push(partition, key, &octets)?;
        }
    }
    Ok(())
}

/// Without a reduce: to the output.
pub(crate) struct Direct<K: Codec, V: Codec> {
    pub(crate) output: Output<K, V>,
}

impl<K: Codec, V: Codec> Sink<K, V> for Direct<K, V> {
    fn emit(&mut self, key: Ref<'_, K>, value: Ref<'_, V>) -> Result<()> {
        self.output.write(key, value)
    }
}

impl<K: Codec, V: Codec> Collect<K, V> for Direct<K, V> {
    fn finish(self: Box<Self>, _context: &mut Context) -> Result<Collected> {
        Ok(Collected::Output(self.output.finish()?))
    }
}
