//! The epoch of a role never goes back, is never given to two hosts, and is not after the revision
//! that says it (DESIGN 3).

use std::collections::BTreeMap;

use cfgsvc_core::placement::{Name, RoleName};

use crate::agents::view::Placed;

/// The last epoch of each role, a lock that was forgotten included, and who held it.
#[derive(Debug, Default)]
pub struct EpochsOnlyGrow {
    last: BTreeMap<RoleName, (i64, Option<Name>)>,
    grants: u64,
}

impl EpochsOnlyGrow {
    /// A commit at `revision` says who holds what.
    pub fn placed(&mut self, revision: i64, placed: &Placed) -> Result<(), String> {
        let Placed::Grant(role, Some(grant)) = placed else {
            return Ok(());
        };
        let (last, holder) = self.last.entry(role.clone()).or_default();
        if grant.restored {
            // The former group may have given later ones; none of them is given again.
            (*last, *holder) = (*last + 1, None);
            return if grant.serving == 0 {
                Ok(())
            } else {
                Err(format!(
                    "an epoch of {role} that came from a snapshot is served"
                ))
            };
        }
        if grant.epoch < *last || grant.epoch > revision {
            let epoch = grant.epoch;
            return Err(format!(
                "epoch of {role} is {epoch} at revision {revision} after {last}"
            ));
        }
        if grant.epoch > *last {
            (*last, *holder) = (grant.epoch, None);
            self.grants += 1;
        }
        if let Some(now) = &grant.holder {
            let first = holder.get_or_insert_with(|| now.clone());
            if first != now {
                return Err(format!(
                    "epoch {last} of {role} was given to {first} and to {now}"
                ));
            }
        }
        Ok(())
    }

    /// Count of epochs.
    pub fn count(&self) -> u64 {
        self.grants
    }
}

#[cfg(test)]
mod tests {
    use cfgsvc_core::placement::Grant;

    use super::*;

    fn grant(epoch: i64, holder: &str) -> Placed {
        let grant = Grant {
            epoch,
            holder: holder.parse().ok(),
            ..Grant::default()
        };
        Placed::Grant("web".parse().expect("a role"), Some(grant))
    }

    #[test]
    fn epoch_that_goes_back_or_changes_hands_is_seen() {
        let mut rule = EpochsOnlyGrow::default();
        rule.placed(4, &grant(4, "h1")).expect("first");
        rule.placed(5, &grant(4, "")).expect("given up");
        rule.placed(6, &grant(4, "h1")).expect("taken again");
        rule.placed(7, &grant(4, "h2")).expect_err("another host");
        rule.placed(8, &grant(8, "h2")).expect("next");
        let forgotten = Placed::Grant("web".parse().expect("a role"), None);
        rule.placed(9, &forgotten).expect("forgotten");
        rule.placed(10, &grant(7, "h1")).expect_err("back");
        rule.placed(11, &grant(12, "h1"))
            .expect_err("after its revision");
    }
}
