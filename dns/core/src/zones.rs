//! The zones of a server, and which of them a name belongs to: the longest that it is at or below
//! (RFC 1034 4.3.2 step 2).

use core::cmp::Ordering;
use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use cfgdns_zone::{Name, Rtype};

use crate::index::{Index, hash_label};
use crate::tree::Tree;

/// A zone that is made when it is first asked for, by whoever asks, and once.
///
/// Why: a role moves, and ten thousand zones have other addresses. The answers are other ones from
/// the moment at which the set of zones is, and what nobody asks for in that moment can be made
/// after it.
#[derive(Clone)]
pub struct LazyTree(Arc<LazyLock<Arc<Tree>, Make>>);

type Make = Box<dyn FnOnce() -> Arc<Tree> + Send>;

impl LazyTree {
    /// What `make` makes. It must depend on nothing but what it holds.
    pub fn later(make: impl FnOnce() -> Tree + Send + 'static) -> Self {
        Self(Arc::new(LazyLock::new(Box::new(|| Arc::new(make())))))
    }

    /// The zone; it is made now, if nobody has asked before.
    pub fn get(&self) -> &Arc<Tree> {
        LazyLock::force(&self.0)
    }
}

impl From<Arc<Tree>> for LazyTree {
    fn from(tree: Arc<Tree>) -> Self {
        Self(Arc::new(LazyLock::new(Box::new(|| tree))))
    }
}

impl fmt::Debug for LazyTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is not made yet stays so.
        f.debug_tuple("LazyTree").field(&self.0).finish()
    }
}

/// A zone as it was, and as it is; none where it was, or is, not there.
pub type Changed<'a> = (Option<&'a Arc<Tree>>, Option<&'a Arc<Tree>>);

/// An immutable set of zones. To change some makes another set, which shares the other trees.
#[derive(Debug, Clone)]
pub struct Zones {
    names: Arc<Names>,
    /// In the order of the names.
    trees: Arc<[LazyTree]>,
}

/// The names of zones.
#[derive(Debug)]
struct Names {
    /// In canonical order, each once.
    origins: Vec<Name>,
    index: Index,
}

impl Zones {
    /// A set of zones; of two with the same name the last is taken.
    pub fn new(trees: impl IntoIterator<Item = Arc<Tree>>) -> Self {
        let named = trees.into_iter();
        Self::of(named.map(|tree| (tree.origin().clone(), tree.into())))
    }

    fn of(zones: impl IntoIterator<Item = (Name, LazyTree)>) -> Self {
        let mut zones: Vec<_> = zones.into_iter().collect();
        // The sort keeps the order of equals: the last comes first when they are turned around.
        zones.reverse();
        zones.sort_by(|(a, _), (b, _)| a.cmp(b));
        zones.dedup_by(|(later, _), (first, _)| later == first);
        let (origins, trees): (Vec<_>, Vec<_>) = zones.into_iter().unzip();
        let count = u32::try_from(origins.len()).expect("fewer than 2^32 zones");
        let index = Index::new(count, |place| {
            let place = usize::try_from(place).expect("32 bits fit");
            let labels: Vec<_> = origins[place].labels().collect();
            let hash = |above, label: &&[u8]| hash_label(above, label);
            labels.iter().rev().fold(0, hash)
        });
        let names = Arc::new(Names { origins, index });
        let trees = trees.into();
        Self { names, trees }
    }

    /// The same zones, but for these: each in the place of the one with its name, or gone. Of two
    /// changes of a name the last counts.
    ///
    /// Where none is new or gone, that costs a copy of the list, and a search for each change that
    /// does not follow the one before in canonical order.
    #[must_use]
    pub fn with(&self, changes: impl IntoIterator<Item = (Name, Option<LazyTree>)>) -> Self {
        let mut trees = self.trees.to_vec();
        let mut new = BTreeMap::new();
        let mut gone = BTreeSet::new();
        let mut next = 0;
        for (origin, tree) in changes {
            let follows = self.names.origins.get(next) == Some(&origin);
            let place = follows.then_some(next).or_else(|| self.place(&origin));
            match (place, tree) {
                (Some(place), Some(tree)) => {
                    trees[place] = tree;
                    gone.remove(&place);
                    next = place + 1;
                }
                (Some(place), None) => {
                    gone.insert(place);
                }
                (None, tree) => {
                    new.insert(origin, tree);
                }
            }
        }
        if new.is_empty() && gone.is_empty() {
            let (names, trees) = (Arc::clone(&self.names), trees.into());
            return Self { names, trees };
        }
        let known = self.names.origins.iter().cloned().zip(trees).enumerate();
        let kept = known.filter(|(place, _)| !gone.contains(place));
        let new = new
            .into_iter()
            .filter_map(|(origin, tree)| Some((origin, tree?)));
        Self::of(kept.map(|(_, zone)| zone).chain(new))
    }

    /// The names of the zones, in canonical order.
    pub fn origins(&self) -> impl ExactSizeIterator<Item = &Name> {
        self.names.origins.iter()
    }

    /// The zones by name; all are made.
    pub fn trees(&self) -> impl ExactSizeIterator<Item = &Arc<Tree>> {
        self.trees.iter().map(LazyTree::get)
    }

    /// The zones that are not those of another set, by name: as they were there, and as they are
    /// here. They are made; those of both sets are not looked at.
    pub fn changes<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Changed<'a>> {
        let differing = self.differing(before);
        differing.map(|(old, new)| (old.map(LazyTree::get), new.map(LazyTree::get)))
    }

    /// How many zones are not those of another set; none is made.
    pub fn changed(&self, before: &Self) -> usize {
        self.differing(before).count()
    }

    fn differing<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (Option<&'a LazyTree>, Option<&'a LazyTree>)> {
        let mut olds = before.names.origins.iter().zip(&*before.trees).peekable();
        let mut news = self.names.origins.iter().zip(&*self.trees).peekable();
        std::iter::from_fn(move || {
            loop {
                let order = match (olds.peek(), news.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some((ours, _)), Some((theirs, _))) if ours == theirs => Ordering::Equal,
                    (Some((ours, _)), Some((theirs, _))) => ours.cmp(theirs),
                };
                let old = olds.next_if(|_| order.is_le()).map(|(_, tree)| tree);
                let new = news.next_if(|_| order.is_ge()).map(|(_, tree)| tree);
                let same = old.zip(new).is_some_and(|(a, b)| Arc::ptr_eq(&a.0, &b.0));
                if !same {
                    return Some((old, new));
                }
            }
        })
    }

    /// The zone with this name.
    pub fn get(&self, origin: &Name) -> Option<&Arc<Tree>> {
        self.place(origin).map(|place| self.trees[place].get())
    }

    fn place(&self, origin: &Name) -> Option<usize> {
        self.names.origins.binary_search(origin).ok()
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
            let place = self.names.index.find(hash, |place| {
                let place = usize::try_from(place).expect("32 bits fit");
                let origin = self.names.origins[place].as_wire();
                origin.eq_ignore_ascii_case(suffix)
            });
            place.map(|place| usize::try_from(place).expect("32 bits fit"))
        };
        let mut hash = 0;
        let mut longest = matching(hash, &[0]);
        for start in offsets[..count].iter().rev().copied().map(usize::from) {
            let label = &wire[start + 1..start + 1 + usize::from(wire[start])];
            hash = hash_label(hash, label);
            longest = matching(hash, &wire[start..]).or(longest);
        }
        longest.map(|place| self.trees[place].get())
    }
}

impl Default for Zones {
    /// No zone: everything is refused.
    fn default() -> Self {
        Self::of([])
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicUsize, Ordering};

    use cfgdns_zone::{Rdata, Zone};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn tree(origin: &str, serial: u32) -> Tree {
        let origin = name(origin);
        let soa = format!("ns. root. {serial} 2 3 4 5");
        let soa = Rdata::parse(Rtype::SOA, &soa, None).expect("an SOA");
        let mut zone = Zone::new(origin.clone());
        zone.insert(&origin, Rtype::SOA, 60, soa)
            .expect("in the zone");
        Tree::build(&zone).expect("it has an SOA")
    }

    #[test]
    fn zone_that_can_wait_is_made_once_and_by_who_asks_for_it() {
        let made = Arc::new(AtomicUsize::new(0));
        let makes = Arc::clone(&made);
        let later = LazyTree::later(move || {
            makes.fetch_add(1, Ordering::Relaxed);
            tree("a.", 2)
        });
        let before = Zones::new(["a.", "b."].map(|origin| Arc::new(tree(origin, 1))));
        let after = before.with([(name("a."), Some(later))]);
        let after = after.with([(name("c."), Some(Arc::new(tree("c.", 1)).into()))]);
        assert!(after.find(&name("www.b."), Rtype::A).is_some());
        assert!(format!("{after:?}").contains("uninit"));
        assert_eq!(after.origins().len(), 3);
        assert_eq!(made.load(Ordering::Relaxed), 0);
        let serial = |zones: &Zones| zones.find(&name("x.a."), Rtype::A).map(|t| t.soa().serial);
        assert_eq!((serial(&after), serial(&after.clone())), (Some(2), Some(2)));
        assert_eq!(after.changed(&before), 2);
        assert_eq!(made.load(Ordering::Relaxed), 1);
        let changed: Vec<_> = after.changes(&before).collect();
        assert_eq!(changed.len(), 2);
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    /// Zones by name, in either case, with their serials.
    fn any_zones() -> impl Strategy<Value = Vec<(&'static str, Option<u32>)>> {
        let origin = proptest::sample::select(vec!["a.", "A.", "b.", "b.a.", "c.a.", "."]);
        let serial = prop_oneof![Just(None), (0..9_u32).prop_map(Some)];
        proptest::collection::vec((origin, serial), 0..8)
    }

    fn with(zones: &Zones, changes: &[(&str, Option<u32>)]) -> Zones {
        zones.with(changes.iter().map(|(origin, serial)| {
            let tree = serial.map(|serial| Arc::new(tree(origin, serial)).into());
            (name(origin), tree)
        }))
    }

    proptest! {
        #[test]
        fn set_with_changes_has_what_was_changed_last_and_tells_what_differs(
            first in any_zones(),
            second in any_zones(),
        ) {
            let mut model = BTreeMap::new();
            let mut step = |zones: &Zones, changes: &[(&'static str, Option<u32>)]| {
                let before = model.clone();
                model.extend(changes.iter().map(|(origin, serial)| (name(origin), *serial)));
                let zones = with(zones, changes);
                (zones, before, model.clone())
            };
            let (zones, ..) = step(&Zones::default(), &first);
            let (after, before, now) = step(&zones, &second);
            let serials = |zones: &Zones| -> Vec<_> {
                zones.trees().map(|t| (t.origin().clone(), Some(t.soa().serial))).collect()
            };
            let there: Vec<_> = now.clone().into_iter().filter(|(_, s)| s.is_some()).collect();
            prop_assert_eq!(serials(&after), there);
            for (origin, serial) in &now {
                let found = after.get(origin).map(|tree| tree.soa().serial);
                prop_assert_eq!(found, *serial);
            }
            let serial = |tree: Option<&Arc<Tree>>| tree.map(|tree| tree.soa().serial);
            let mut told = before.clone();
            for (old, new) in after.changes(&zones) {
                let origin = new.or(old).expect("one of both").origin().clone();
                let known = before.get(&origin).copied().flatten();
                prop_assert_eq!(serial(old), known);
                told.insert(origin, serial(new));
            }
            told.retain(|_, serial| serial.is_some());
            prop_assert_eq!(told.into_iter().collect::<Vec<_>>(), serials(&after));
            prop_assert_eq!(after.changes(&after).count(), 0);
        }
    }
}
