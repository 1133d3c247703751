//! A combiner that is a reducer, such as a program: it gets what was collected, sorted, when memory
//! is full and at the end, and what it emits is sorted again, as it may emit in any order.
//!
//! ```text
//!   map ──► half of the memory ──sorted──► combiner ──► other half ──► runs, merged at the end
//! ```

use crate::api::{Emit, Reducer, Ref, Sink, Values};
use crate::engine::collect::{Collect, Collected, Sorted};
use crate::engine::progress::Counted;
use crate::engine::side::NotHere;
use crate::engine::task::{self, Context, OWN};
use crate::{Codec, Result};
use mapreduce_data::merge::Groups;
use mapreduce_data::partition::hash;
use mapreduce_data::sort::SortBuffer;
use std::sync::Arc;

/// Makes a combiner.
pub(crate) type MakeCombiner<C> = Arc<dyn Fn() -> C + Send + Sync>;

/// With a combiner that is a reducer.
pub(crate) struct Combined<C: Reducer> {
    /// What was emitted since it was combined last.
    pub(crate) buffer: SortBuffer,
    pub(crate) make: MakeCombiner<C>,
    /// Of the combiner: the task's, with counters of its own.
    pub(crate) context: Context,
    /// What the combiner has emitted.
    pub(crate) to: Sorted<C::Key, C::Value>,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// Counts what a combiner emits.
struct Emitted<'a, K: Codec, V: Codec> {
    to: &'a mut Sorted<K, V>,
    records: u64,
}

impl<K: Codec, V: Codec> Sink<K, V> for Emitted<'_, K, V> {
    fn emit(&mut self, key: Ref<'_, K>, value: Ref<'_, V>) -> Result<()> {
        self.records += 1;
        self.to.emit(key, value)
    }
}

impl<C> Combined<C>
where
    C: Reducer<OutKey = <C as Reducer>::Key, OutValue = <C as Reducer>::Value>,
{
    fn combine(&mut self) -> Result<()> {
        let mut combiner = (self.make)();
        let progress = Arc::clone(self.context.progress());
        let mut counted = Emitted {
            to: &mut self.to,
            records: 0,
        };
        let mut out = Emit {
            sink: &mut counted,
            context: &mut self.context,
            sides: &mut NotHere,
        };
        let read = self.buffer.len() as u64;
        let sorted = Counted::new(self.buffer.sorted(), &progress);
        let mut groups = Groups::new(sorted);
        while groups.advance()? {
            let (key, mut raw) = groups.group();
            let mut values = Values::new(&mut raw);
            let key = C::Key::decode(key)?;
            let combined = combiner.reduce(key, &mut values, &mut out);
            combined.map_err(|error| task::failed("combine", out.context, error))?;
        }
        let finished = combiner.finish(&mut out);
        finished.map_err(|error| task::failed("combine", out.context, error))?;
        let written = counted.records;
        self.buffer.clear();
        self.context.count(OWN, "combine input records", read);
        self.context.count(OWN, "combine output records", written);
        Ok(())
    }
}

impl<C> Sink<C::Key, C::Value> for Combined<C>
where
    C: Reducer<OutKey = <C as Reducer>::Key, OutValue = <C as Reducer>::Value>,
{
    fn emit(&mut self, key: Ref<'_, C::Key>, value: Ref<'_, C::Value>) -> Result<()> {
        let (buffer, partition) = (&mut self.buffer, &self.to.partition);
        let full = C::Key::with(key, &mut self.key, |key| -> Result<bool> {
            let partition = partition(key, hash(key))?;
            C::Value::with(value, &mut self.value, |value| {
                Ok(buffer.push(partition, key, value)?)
            })
        })?;
        if full {
            self.combine()?;
        }
        Ok(())
    }
}

impl<C> Collect<C::Key, C::Value> for Combined<C>
where
    C: Reducer<OutKey = <C as Reducer>::Key, OutValue = <C as Reducer>::Value>,
{
    fn finish(mut self: Box<Self>, context: &mut Context) -> Result<Collected> {
        if !self.buffer.is_empty() {
            self.combine()?;
        }
        let Self {
            to, context: own, ..
        } = *self;
        context.join(own);
        Box::new(to).finish(context)
    }
}
