//! The zones of a server, and which of them a name belongs to: the longest that it is at or below
//! (RFC 1034 4.3.2 step 2).

use std::sync::Arc;

use cfgdns_zone::{Name, Rtype};

use crate::index::{Index, hash_label};
use crate::tree::Tree;

/// An immutable set of zones. To change one zone makes another set, which shares the other trees.
#[derive(Debug, Clone)]
pub struct Zones {
    /// By origin, each once.
    trees: Vec<Arc<Tree>>,
    index: Index,
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
        Self { trees, index }
    }

    /// The same zones with this one, in the place of one with its name.
    #[must_use]
    pub fn with(&self, tree: Arc<Tree>) -> Self {
        Self::new(self.trees.iter().cloned().chain([tree]))
    }

    /// The same zones without the one with this name.
    #[must_use]
    pub fn without(&self, origin: &Name) -> Self {
        let others = self.trees.iter().filter(|tree| tree.origin() != origin);
        Self::new(others.cloned())
    }

    /// The zones by name.
    pub fn trees(&self) -> impl ExactSizeIterator<Item = &Arc<Tree>> {
        self.trees.iter()
    }

    /// The zone with this name.
    pub fn get(&self, origin: &Name) -> Option<&Arc<Tree>> {
        let found = self
            .trees
            .binary_search_by(|tree| tree.origin().cmp(origin));
        found.ok().map(|place| &self.trees[place])
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
