//! The zones of a server, and which of them a name belongs to: the longest that it is at or below
//! (RFC 1034 4.3.2 step 2).

use std::collections::BTreeSet;
use std::sync::Arc;

use cfgdns_zone::{Name, Rtype};

use crate::index::{Index, hash_label};
use crate::tree::Tree;

/// An immutable set of zones. To change some makes another set, which shares the other trees.
#[derive(Debug, Clone)]
pub struct Zones {
    /// By origin, each once.
    trees: Vec<Arc<Tree>>,
    index: Arc<Index>,
}

impl Zones {
    /// A set of zones; of two with the same name the last is taken.
    pub fn new(trees: impl IntoIterator<Item = Arc<Tree>>) -> Self {
        let mut trees: Vec<_> = trees.into_iter().collect();
        // The sort keeps the order of equals: the last comes first when they are turned around.
        trees.reverse();
        trees.sort_by(|a, b| a.origin().cmp(b.origin()));
        trees.dedup_by(|later, first| later.origin() == first.origin());
        let count = u32::try_from(trees.len()).expect("fewer than 2^32 zones");
        let index = Index::new(count, |place| {
            let place = usize::try_from(place).expect("32 bits fit");
            let labels: Vec<_> = trees[place].origin().labels().collect();
            let hash = |above, label: &&[u8]| hash_label(above, label);
            labels.iter().rev().fold(0, hash)
        });
        let index = Arc::new(index);
        Self { trees, index }
    }

    /// The same zones, but for these: each in the place of the one with its name, or gone.
    ///
    /// Where none is new or gone, that costs a search for each and a copy of the list.
    #[must_use]
    pub fn with(&self, changes: impl IntoIterator<Item = (Name, Option<Arc<Tree>>)>) -> Self {
        let mut changed = self.clone();
        let mut new = Vec::new();
        let mut gone = BTreeSet::new();
        for (origin, tree) in changes {
            match (self.place(&origin), tree) {
                (Some(place), Some(tree)) => changed.trees[place] = tree,
                (Some(_), None) => {
                    gone.insert(origin);
                }
                (None, Some(tree)) => new.push(tree),
                (None, None) => {}
            }
        }
        if new.is_empty() && gone.is_empty() {
            return changed;
        }
        changed.trees.retain(|tree| !gone.contains(tree.origin()));
        Self::new(changed.trees.into_iter().chain(new))
    }

    /// The zones by name.
    pub fn trees(&self) -> impl ExactSizeIterator<Item = &Arc<Tree>> {
        self.trees.iter()
    }

    /// The zone with this name.
    pub fn get(&self, origin: &Name) -> Option<&Arc<Tree>> {
        self.place(origin).map(|place| &self.trees[place])
    }

    fn place(&self, origin: &Name) -> Option<usize> {
        let found = self
            .trees
            .binary_search_by(|tree| tree.origin().cmp(origin));
        found.ok()
    }

    /// The zone that answers a question about a name: the longest match; for DS that above it, when
    /// we have it, because a key is vouched for there (RFC 4035 3.1.4.1).
    pub fn find(&self, name: &Name, rtype: Rtype) -> Option<&Arc<Tree>> {
        let tree = self.longest(name)?;
        if rtype == Rtype::DS
            && tree.origin() == name
            && let Some(above) = name.parent().and_then(|parent| self.longest(&parent))
        {
            return Some(above);
        }
        Some(tree)
    }

    fn longest(&self, name: &Name) -> Option<&Arc<Tree>> {
        let (offsets, count) = name.label_offsets();
        let wire = name.as_wire();
        let matching = |hash, suffix: &[u8]| {
            let place = self.index.find(hash, |place| {
                let place = usize::try_from(place).expect("32 bits fit");
                self.trees[place]
                    .origin()
                    .as_wire()
                    .eq_ignore_ascii_case(suffix)
            });
            place.map(|place| &self.trees[usize::try_from(place).expect("32 bits fit")])
        };
        let mut hash = 0;
        let mut longest = matching(hash, &[0]);
        for start in offsets[..count].iter().rev().copied().map(usize::from) {
            let label = &wire[start + 1..start + 1 + usize::from(wire[start])];
            hash = hash_label(hash, label);
            longest = matching(hash, &wire[start..]).or(longest);
        }
        longest
    }
}

impl Default for Zones {
    /// No zone: everything is refused.
    fn default() -> Self {
        Self::new([])
    }
}
