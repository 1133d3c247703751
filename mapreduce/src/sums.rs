//! Combiners and reducers that many jobs need.

use crate::{Bytes, Codec, Combine, Emit, Reducer, Ref, Result, U64, Values};
use std::marker::PhantomData;

/// Adds numbers, as a combiner and as a reducer. A sum that is too great is an error of the job.
#[derive(Debug)]
pub struct Sum<K>(PhantomData<K>);

impl<K> Default for Sum<K> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<K: 'static> Combine for Sum<K> {
    type Value = U64;
    type Sum = u64;

    fn first(&self, value: u64) -> u64 {
        value
    }

    fn add(&self, sum: &mut u64, value: u64) {
        // A reducer that gets this much reports it.
        *sum = sum.saturating_add(value);
    }

    fn write(&self, sum: &u64, to: &mut Vec<u8>) {
        U64::encode(*sum, to);
    }
}

impl<K: Codec> Reducer for Sum<K> {
    type Key = K;
    type Value = U64;
    type OutKey = K;
    type OutValue = U64;

    fn reduce(
        &mut self,
        key: Ref<'_, K>,
        values: &mut Values<'_, U64>,
        out: &mut Emit<'_, K, U64>,
    ) -> Result<()> {
        let mut sum = 0_u64;
        while let Some(value) = values.next()? {
            sum = sum.saturating_add(value);
        }
        if sum == u64::MAX {
            return Err("a sum does not fit into 64 bits".into());
        }
        out.emit(key, sum)
    }
}

/// Puts values together to a list, in order and each once, with TABs between them, as a combiner
/// and as a reducer. A value is such a list already, or one of its items, which has no TAB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lists;

impl Combine for Lists {
    type Value = Bytes;
    type Sum = Vec<u8>;

    fn first(&self, items: &[u8]) -> Vec<u8> {
        items.to_vec()
    }

    /// What is the last one already is not added again: many values repeat at once.
    fn add(&self, list: &mut Vec<u8>, items: &[u8]) {
        let before = list.len().checked_sub(items.len() + 1);
        let is_last = before.is_some_and(|at| list[at] == b'\t' && list.ends_with(items));
        if !is_last && list != items {
            list.push(b'\t');
            list.extend_from_slice(items);
        }
    }

    fn write(&self, list: &Vec<u8>, to: &mut Vec<u8>) {
        to.extend_from_slice(list);
    }

    fn memory(&self, list: &Vec<u8>) -> usize {
        list.capacity()
    }
}

impl Reducer for Lists {
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
        let mut all = Vec::new();
        while let Some(items) = values.next()? {
            all.extend_from_slice(items);
            all.push(b'\t');
        }
        let mut items: Vec<&[u8]> = all.split(|octet| *octet == b'\t').collect();
        // After the last TAB there is nothing.
        items.pop();
        items.sort_unstable();
        items.dedup();
        out.emit(key, &items.join(&b'\t'))
    }
}
