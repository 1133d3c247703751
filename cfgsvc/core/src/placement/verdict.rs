//! What a host may do about a role. The table is made from what Patroni, Vitess and `MySQL` do with
//! a host that comes back (their sources are named in the design's reference, coordination 5.3).
//!
//! | the group says | the host knows | verdict |
//! | --- | --- | --- |
//! | no such role, or it does not attend | | fenced |
//! | data of something else, or data without a known epoch | | fenced: a person decides |
//! | an epoch older than | its own | fenced: the group has gone back in time |
//! | it holds the role, and began | | serve |
//! | it holds the role, of which others wrote | an empty store | fenced: a person decides |
//! | it holds the role | | fenced until it has begun the epoch |
//! | those who serve must stop | it holds the role | fenced: it hands over |
//! | a snapshot says who holds it | | fenced until it is given anew |
//! | nobody holds it | | fenced |
//! | another holds it, and has not begun | data | fenced: from where it begins is not known |
//! | another holds it | more than that began from | rebuild |
//! | another holds it | no more than that | standby if it is a candidate, else redirect |
//!
//! Invariant: what is not known is fenced, and only a start that was committed is `serve`.

use std::fmt;

use super::grant::{Attending, Grant};
use super::name::Name;
use super::objects::{Data, Kind, Spec};

/// What a host may do about a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds this epoch until its lease is over.
    Serve {
        /// The epoch.
        epoch: i64,
    },
    /// Another holds it; follow it.
    Standby {
        /// Who.
        holder: Name,
        /// Its epoch.
        epoch: i64,
    },
    /// This is not where it is served: send clients to the holder.
    Redirect {
        /// Who.
        holder: Name,
        /// Its epoch.
        epoch: i64,
    },
    /// It has, or may have, writes that the holder lacks.
    Rebuild {
        /// From whom.
        holder: Name,
        /// Its epoch.
        epoch: i64,
        /// Where the host is, and from where the holder began.
        why: String,
    },
    /// Do not serve.
    Fenced(Fence),
}

/// Why a host may not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fence {
    /// There is no such role.
    NoSuchRole,
    /// The host does not attend: its lease is over, or it has none yet.
    NotAttending,
    /// The group was made from a snapshot, and has not given the role since.
    Restored,
    /// Nobody holds the role.
    NoHolder,
    /// It holds the role, and has not begun.
    NotBegun {
        /// The epoch that it may begin.
        epoch: i64,
    },
    /// It holds the role, and is asked to stop.
    HandsOver {
        /// Who is next, if anybody.
        next: Option<Name>,
    },
    /// Another holds it and has not begun: from where is not known.
    OtherNotBegun {
        /// Who.
        holder: Name,
    },
    /// It knows a later epoch than the group does.
    BackInTime {
        /// Its own.
        known: i64,
        /// The group's.
        found: i64,
    },
    /// Its data is of something else.
    OtherData {
        /// What the role's is of.
        expected: String,
        /// What its own is of.
        found: String,
    },
    /// It has data and knows no epoch.
    UnknownData,
    /// It holds the role, and its store is empty where others wrote.
    Empty,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchRole => f.write_str("there is no such role"),
            Self::NotAttending => f.write_str("this host has no lease"),
            Self::Restored => f.write_str(
                "the group was made from a snapshot, which may lack the last epochs: give the role \
                 anew (cfgctl role switch)",
            ),
            Self::NoHolder => f.write_str("nobody holds the role"),
            Self::NotBegun { epoch } => write!(f, "epoch {epoch} is granted, and not begun"),
            Self::HandsOver { next: Some(next) } => write!(f, "hands over to {next}"),
            Self::HandsOver { next: None } => f.write_str("gives the role up"),
            Self::OtherNotBegun { holder } => {
                write!(f, "{holder} has not begun, so it is not known from where")
            }
            Self::BackInTime { known, found } => write!(
                f,
                "this host knows epoch {known}, the group {found}: the group has gone back in time"
            ),
            Self::OtherData { expected, found } => {
                write!(
                    f,
                    "its data is of '{found}', that of the role of '{expected}': give it the right \
                     store, or an empty one to rebuild"
                )
            }
            Self::UnknownData => f.write_str(
                "it has data and knows no epoch: empty it to rebuild, or restore its verdict file",
            ),
            Self::Empty => f.write_str(
                "its store is empty, and others began before: is its volume mounted? Bring the \
                 data back, or give it up (cfgctl role switch --accept-loss)",
            ),
        }
    }
}

impl Verdict {
    /// Its name, as in verdict files and in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Serve { .. } => "serve",
            Self::Standby { .. } => "standby",
            Self::Redirect { .. } => "redirect",
            Self::Rebuild { .. } => "rebuild",
            Self::Fenced(_) => "fenced",
        }
    }
}

/// What a host may do about a role, by the state of one commit.
pub fn verdict(
    role: Option<(&Spec, &Grant)>,
    host: &Name,
    attending: Option<&Attending>,
) -> Verdict {
    let Some((spec, grant)) = role else {
        return Verdict::Fenced(Fence::NoSuchRole);
    };
    let Some(me) = attending else {
        return Verdict::Fenced(Fence::NotAttending);
    };
    if let Some(fence) = never(spec, grant, me) {
        return Verdict::Fenced(fence);
    }
    if grant.restored {
        return Verdict::Fenced(Fence::Restored);
    }
    let Some(holder) = grant.holder.clone() else {
        return Verdict::Fenced(Fence::NoHolder);
    };
    let epoch = grant.epoch;
    if me.holds_as(spec.kind, host) == Some(&holder) {
        if grant.closing() {
            let next = grant.next.clone();
            return Verdict::Fenced(Fence::HandsOver { next });
        }
        if me.serving == epoch {
            return Verdict::Serve { epoch };
        }
        if !me.has_data && grant.written && !grant.loses {
            return Verdict::Fenced(Fence::Empty);
        }
        return Verdict::Fenced(Fence::NotBegun { epoch });
    }
    match lacks(spec.data, grant, me) {
        Lacks::Nothing if spec.kind != Kind::Colo && spec.is_candidate(host) => {
            Verdict::Standby { holder, epoch }
        }
        Lacks::Nothing => Verdict::Redirect { holder, epoch },
        Lacks::Something(why) => Verdict::Rebuild { holder, epoch, why },
        Lacks::NotKnown => Verdict::Fenced(Fence::OtherNotBegun { holder }),
    }
}

/// What no grant can mend.
pub(super) fn never(spec: &Spec, grant: &Grant, me: &Attending) -> Option<Fence> {
    if me.epoch > grant.epoch {
        let (known, found) = (me.epoch, grant.epoch);
        return Some(Fence::BackInTime { known, found });
    }
    if spec.data == Data::None || !me.has_data {
        return None;
    }
    if !grant.identity.is_empty() && grant.identity != me.identity {
        return Some(Fence::OtherData {
            expected: grant.identity.clone(),
            found: me.identity.clone(),
        });
    }
    // Before the first epoch there is nothing that it could have missed.
    let missed = !grant.starts.is_empty() || grant.trimmed;
    (me.epoch == 0 && missed).then_some(Fence::UnknownData)
}

/// Whether the group may give the role to a host by itself: nothing that was written is known to be
/// missing there, or to be nobody's.
pub(super) fn may_begin(spec: &Spec, grant: &Grant, who: &Attending) -> bool {
    let begun = spec.data != Data::None && !grant.starts.is_empty();
    let nothing = grant.left.as_ref();
    let nothing = nothing.is_some_and(|left| !spec.data.is_some(left));
    (who.has_data || !begun || nothing) && may_go_on(spec, grant, who)
}

/// The same for the one that holds it: what was written is not known to be missing there.
pub(super) fn may_go_on(spec: &Spec, grant: &Grant, who: &Attending) -> bool {
    if grant.restored {
        return spec.data == Data::None;
    }
    let complete = match lacks(spec.data, grant, who) {
        // Nobody has written since what it knows.
        Lacks::Nothing | Lacks::NotKnown => true,
        Lacks::Something(_) => false,
    };
    let empty = !who.has_data && grant.written;
    complete && !empty && never(spec, grant, who).is_none()
}

/// Whether the holder has all that a host wrote.
enum Lacks {
    Nothing,
    Something(String),
    /// The holder has not said from where it began.
    NotKnown,
}

fn lacks(data: Data, grant: &Grant, me: &Attending) -> Lacks {
    if data == Data::None || !me.has_data || me.epoch == grant.epoch {
        return Lacks::Nothing;
    }
    // The first epoch after the one it knew: what it wrote after that began is nobody's.
    let Some(next) = grant.starts.iter().find(|start| start.epoch > me.epoch) else {
        return Lacks::NotKnown;
    };
    let dropped = grant.trimmed && grant.starts.front() == Some(next);
    if dropped {
        let known = me.epoch;
        return Lacks::Something(format!(
            "it knew epoch {known}, and from where the next one began is no longer known"
        ));
    }
    match data.covers(&next.position, &me.position) {
        Some(true) => Lacks::Nothing,
        Some(false) => Lacks::Something(format!(
            "it is at {}, and {} began epoch {} at {}",
            me.position, next.host, next.epoch, next.position
        )),
        None => Lacks::Something(format!(
            "its position '{}' cannot be compared with {}",
            me.position, next.position
        )),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::super::grant::Start;
    use super::*;

    /// One fact that a row of the table turns on.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fact {
        NoRole,
        NotThere,
        /// It knows an epoch after the group's.
        Later,
        OtherData,
        UnknownData,
        NoHolder,
        Mine,
        MineBegun,
        /// Its store is empty.
        Empty,
        Closing,
        /// Another holds it, and has not begun.
        Unbegun,
        /// It has more than the holder began from.
        More,
        Trimmed,
        NoCandidate,
    }

    const FACTS: [Fact; 14] = [
        Fact::NoRole,
        Fact::NotThere,
        Fact::Later,
        Fact::OtherData,
        Fact::UnknownData,
        Fact::NoHolder,
        Fact::Mine,
        Fact::MineBegun,
        Fact::Empty,
        Fact::Closing,
        Fact::Unbegun,
        Fact::More,
        Fact::Trimmed,
        Fact::NoCandidate,
    ];

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    /// The verdict on `me`, which knew epoch 10 and is at 50, while `other` holds epoch 20, begun
    /// at 50; but for the facts.
    fn of(facts: &[Fact]) -> Verdict {
        let mut spec = Spec::of(Kind::Host);
        spec.data = Data::Number;
        let mut grant = Grant {
            epoch: 20,
            holder: Some(name("other")),
            serving: 1,
            identity: "orders".to_owned(),
            written: true,
            starts: [(10, "me", "5"), (20, "other", "50")]
                .map(|(epoch, host, position)| Start {
                    epoch,
                    host: name(host),
                    position: position.to_owned(),
                })
                .into(),
            ..Grant::default()
        };
        let mut me = Attending {
            colo: Some(name("akl")),
            instance: "i".to_owned(),
            boot: "b".to_owned(),
            epoch: 10,
            has_data: true,
            identity: "orders".to_owned(),
            position: "50".to_owned(),
            life: String::new(),
            since: 0,
            said: 0,
            declines: false,
            attempt: 1,
            tries: 0,
            serving: 0,
            value: String::new(),
        };
        for fact in facts {
            match fact {
                Fact::NoRole | Fact::NotThere => {}
                Fact::Later => me.epoch = 21,
                Fact::OtherData => me.identity = "stock".to_owned(),
                Fact::UnknownData => me.epoch = 0,
                Fact::NoHolder => grant.holder = None,
                Fact::Mine => grant.holder = Some(name("me")),
                Fact::MineBegun => {
                    grant.holder = Some(name("me"));
                    me.serving = 20;
                }
                Fact::Empty => me.has_data = false,
                Fact::Closing => grant.next = Some(name("third")),
                Fact::Unbegun => drop(grant.starts.pop_back()),
                Fact::More => me.position = "51".to_owned(),
                Fact::Trimmed => {
                    grant.trimmed = true;
                    drop(grant.starts.pop_front());
                }
                Fact::NoCandidate => spec.candidates = vec![name("other")],
            }
        }
        let role = (!facts.contains(&Fact::NoRole)).then_some((&spec, &grant));
        let there = (!facts.contains(&Fact::NotThere)).then_some(&me);
        verdict(role, &name("me"), there)
    }

    fn shown(verdict: &Verdict) -> String {
        let name = verdict.name();
        match verdict {
            Verdict::Serve { epoch } => format!("{name} {epoch}"),
            Verdict::Standby { holder, .. } | Verdict::Redirect { holder, .. } => {
                format!("{name} {holder}")
            }
            Verdict::Rebuild { holder, why, .. } => format!("{name} {holder}: {why}"),
            Verdict::Fenced(fence) => format!("{name}: {fence}"),
        }
    }

    fn check(cases: impl Iterator<Item = Vec<Fact>>, expected: Expect) {
        let lines: Vec<String> = cases
            .map(|facts| format!("{facts:?} -> {}", shown(&of(&facts))))
            .collect();
        expected.assert_eq(&(lines.join("\n") + "\n"));
    }

    #[test]
    fn every_row() {
        let rows = std::iter::once(Vec::new()).chain(FACTS.map(|fact| vec![fact]));
        check(
            rows,
            expect![[r#"
                [] -> standby other
                [NoRole] -> fenced: there is no such role
                [NotThere] -> fenced: this host has no lease
                [Later] -> fenced: this host knows epoch 21, the group 20: the group has gone back in time
                [OtherData] -> fenced: its data is of 'stock', that of the role of 'orders': give it the right store, or an empty one to rebuild
                [UnknownData] -> fenced: it has data and knows no epoch: empty it to rebuild, or restore its verdict file
                [NoHolder] -> fenced: nobody holds the role
                [Mine] -> fenced: epoch 20 is granted, and not begun
                [MineBegun] -> serve 20
                [Empty] -> standby other
                [Closing] -> standby other
                [Unbegun] -> fenced: other has not begun, so it is not known from where
                [More] -> rebuild other: it is at 51, and other began epoch 20 at 50
                [Trimmed] -> rebuild other: it knew epoch 10, and from where the next one began is no longer known
                [NoCandidate] -> redirect other
            "#]],
        );
    }

    /// Each fact together with each other: which one decides.
    #[test]
    fn every_pair_of_rows() {
        let pairs = FACTS.into_iter().enumerate().flat_map(|(at, first)| {
            FACTS[at + 1..]
                .iter()
                .map(move |second| vec![first, *second])
        });
        check(
            pairs,
            expect![[r#"
                [NoRole, NotThere] -> fenced: there is no such role
                [NoRole, Later] -> fenced: there is no such role
                [NoRole, OtherData] -> fenced: there is no such role
                [NoRole, UnknownData] -> fenced: there is no such role
                [NoRole, NoHolder] -> fenced: there is no such role
                [NoRole, Mine] -> fenced: there is no such role
                [NoRole, MineBegun] -> fenced: there is no such role
                [NoRole, Empty] -> fenced: there is no such role
                [NoRole, Closing] -> fenced: there is no such role
                [NoRole, Unbegun] -> fenced: there is no such role
                [NoRole, More] -> fenced: there is no such role
                [NoRole, Trimmed] -> fenced: there is no such role
                [NoRole, NoCandidate] -> fenced: there is no such role
                [NotThere, Later] -> fenced: this host has no lease
                [NotThere, OtherData] -> fenced: this host has no lease
                [NotThere, UnknownData] -> fenced: this host has no lease
                [NotThere, NoHolder] -> fenced: this host has no lease
                [NotThere, Mine] -> fenced: this host has no lease
                [NotThere, MineBegun] -> fenced: this host has no lease
                [NotThere, Empty] -> fenced: this host has no lease
                [NotThere, Closing] -> fenced: this host has no lease
                [NotThere, Unbegun] -> fenced: this host has no lease
                [NotThere, More] -> fenced: this host has no lease
                [NotThere, Trimmed] -> fenced: this host has no lease
                [NotThere, NoCandidate] -> fenced: this host has no lease
                [Later, OtherData] -> fenced: this host knows epoch 21, the group 20: the group has gone back in time
                [Later, UnknownData] -> fenced: it has data and knows no epoch: empty it to rebuild, or restore its verdict file
                [Later, NoHolder] -> fenced: this host knows epoch 21, the group 20: the group has gone back in time
                [Later, Mine] -> fenced: this host knows epoch 21, the group 20: the group has gone back in time
                [Later, MineBegun] -> fenced: this host knows epoch 21, the group 20: the group has gone back in time
                [Later, Empty] -> fenced: this host knows epoch 21, the group 20: the group has gone back in time
                [Later, Closing] -> fenced: this host knows epoch 21, the group 20: the group has gone back in time
                [Later, Unbegun] -> fenced: this host knows epoch 21, the group 20: the group has gone back in time
                [Later, More] -> fenced: this host knows epoch 21, the group 20: the group has gone back in time
                [Later, Trimmed] -> fenced: this host knows epoch 21, the group 20: the group has gone back in time
                [Later, NoCandidate] -> fenced: this host knows epoch 21, the group 20: the group has gone back in time
                [OtherData, UnknownData] -> fenced: its data is of 'stock', that of the role of 'orders': give it the right store, or an empty one to rebuild
                [OtherData, NoHolder] -> fenced: its data is of 'stock', that of the role of 'orders': give it the right store, or an empty one to rebuild
                [OtherData, Mine] -> fenced: its data is of 'stock', that of the role of 'orders': give it the right store, or an empty one to rebuild
                [OtherData, MineBegun] -> fenced: its data is of 'stock', that of the role of 'orders': give it the right store, or an empty one to rebuild
                [OtherData, Empty] -> standby other
                [OtherData, Closing] -> fenced: its data is of 'stock', that of the role of 'orders': give it the right store, or an empty one to rebuild
                [OtherData, Unbegun] -> fenced: its data is of 'stock', that of the role of 'orders': give it the right store, or an empty one to rebuild
                [OtherData, More] -> fenced: its data is of 'stock', that of the role of 'orders': give it the right store, or an empty one to rebuild
                [OtherData, Trimmed] -> fenced: its data is of 'stock', that of the role of 'orders': give it the right store, or an empty one to rebuild
                [OtherData, NoCandidate] -> fenced: its data is of 'stock', that of the role of 'orders': give it the right store, or an empty one to rebuild
                [UnknownData, NoHolder] -> fenced: it has data and knows no epoch: empty it to rebuild, or restore its verdict file
                [UnknownData, Mine] -> fenced: it has data and knows no epoch: empty it to rebuild, or restore its verdict file
                [UnknownData, MineBegun] -> fenced: it has data and knows no epoch: empty it to rebuild, or restore its verdict file
                [UnknownData, Empty] -> standby other
                [UnknownData, Closing] -> fenced: it has data and knows no epoch: empty it to rebuild, or restore its verdict file
                [UnknownData, Unbegun] -> fenced: it has data and knows no epoch: empty it to rebuild, or restore its verdict file
                [UnknownData, More] -> fenced: it has data and knows no epoch: empty it to rebuild, or restore its verdict file
                [UnknownData, Trimmed] -> fenced: it has data and knows no epoch: empty it to rebuild, or restore its verdict file
                [UnknownData, NoCandidate] -> fenced: it has data and knows no epoch: empty it to rebuild, or restore its verdict file
                [NoHolder, Mine] -> fenced: epoch 20 is granted, and not begun
                [NoHolder, MineBegun] -> serve 20
                [NoHolder, Empty] -> fenced: nobody holds the role
                [NoHolder, Closing] -> fenced: nobody holds the role
                [NoHolder, Unbegun] -> fenced: nobody holds the role
                [NoHolder, More] -> fenced: nobody holds the role
                [NoHolder, Trimmed] -> fenced: nobody holds the role
                [NoHolder, NoCandidate] -> fenced: nobody holds the role
                [Mine, MineBegun] -> serve 20
                [Mine, Empty] -> fenced: its store is empty, and others began before: is its volume mounted? Bring the data back, or give it up (cfgctl role switch --accept-loss)
                [Mine, Closing] -> fenced: hands over to third
                [Mine, Unbegun] -> fenced: epoch 20 is granted, and not begun
                [Mine, More] -> fenced: epoch 20 is granted, and not begun
                [Mine, Trimmed] -> fenced: epoch 20 is granted, and not begun
                [Mine, NoCandidate] -> fenced: epoch 20 is granted, and not begun
                [MineBegun, Empty] -> serve 20
                [MineBegun, Closing] -> fenced: hands over to third
                [MineBegun, Unbegun] -> serve 20
                [MineBegun, More] -> serve 20
                [MineBegun, Trimmed] -> serve 20
                [MineBegun, NoCandidate] -> serve 20
                [Empty, Closing] -> standby other
                [Empty, Unbegun] -> standby other
                [Empty, More] -> standby other
                [Empty, Trimmed] -> standby other
                [Empty, NoCandidate] -> redirect other
                [Closing, Unbegun] -> fenced: other has not begun, so it is not known from where
                [Closing, More] -> rebuild other: it is at 51, and other began epoch 20 at 50
                [Closing, Trimmed] -> rebuild other: it knew epoch 10, and from where the next one began is no longer known
                [Closing, NoCandidate] -> redirect other
                [Unbegun, More] -> fenced: other has not begun, so it is not known from where
                [Unbegun, Trimmed] -> fenced: other has not begun, so it is not known from where
                [Unbegun, NoCandidate] -> fenced: other has not begun, so it is not known from where
                [More, Trimmed] -> rebuild other: it knew epoch 10, and from where the next one began is no longer known
                [More, NoCandidate] -> rebuild other: it is at 51, and other began epoch 20 at 50
                [Trimmed, NoCandidate] -> rebuild other: it knew epoch 10, and from where the next one began is no longer known
            "#]],
        );
    }

    #[test]
    fn serve_is_only_said_to_the_one_that_began_and_is_not_asked_to_stop() {
        let all = 1u32 << FACTS.len();
        let mut served = 0;
        for set in 0..all {
            let facts: Vec<Fact> = (0..FACTS.len())
                .filter(|bit| set & (1 << bit) != 0)
                .map(|bit| FACTS[bit])
                .collect();
            // Who begins has data.
            let possible = !(facts.contains(&Fact::MineBegun) && facts.contains(&Fact::Empty));
            if !possible || !matches!(of(&facts), Verdict::Serve { .. }) {
                continue;
            }
            served += 1;
            assert!(facts.contains(&Fact::MineBegun), "{facts:?}");
            let not = [
                Fact::NoRole,
                Fact::NotThere,
                Fact::Later,
                Fact::OtherData,
                Fact::Closing,
            ];
            assert!(!facts.iter().any(|fact| not.contains(fact)), "{facts:?}");
        }
        assert!(served > 0, "some are served");
    }
}
