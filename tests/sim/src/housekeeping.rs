//! What the leader does by itself about old history; the twin of `cfgsvc::housekeeping`.

use std::time::Duration;

use cfgsvc::housekeeping::{Compactor, Retention};
use cfgsvc_core::read::machine_record;
use cfgsvc_proto::etcd::CompactionRequest;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::{Command, Scrub};
use cluster::state_store::StateStore as _;
use prost::Message as _;

use crate::member::{Member, moment};
use crate::runtime::sleep;

const LOOK: Duration = Duration::from_secs(1);
/// History events that one removal step looks at; few, so that there are many steps.
const SCRUB_EVENTS: u32 = 7;
/// Which revisions stay readable. By time, because compaction by number alone waits for more
/// revisions than a run has.
const RETENTION: Retention = Retention {
    after: Some(Duration::from_millis(1500)),
    keep: Some(12),
};

fn command(op: Op) -> bytes::Bytes {
    let command = Command {
        op: Some(op),
        ..Command::default()
    };
    command.encode_to_vec().into()
}

/// Compacts and scrubs while this member leads.
pub async fn run(member: Member) {
    let mut compactor = Compactor::new(RETENTION);
    loop {
        sleep(LOOK).await;
        if !member.leads() {
            compactor.forget();
            continue;
        }
        // A failure puts it off to the next look.
        drop(look(&member, &mut compactor).await);
    }
}

async fn look(member: &Member, compactor: &mut Compactor) -> Result<(), String> {
    let mut record = None;
    let read = member.store().engine().read(&mut |view| {
        record = Some(machine_record(view)?);
        Ok(())
    });
    read.map_err(|error| error.to_string())?;
    let Some(record) = record else {
        return Ok(());
    };
    let text = |error: cluster::ProposeError| error.to_string();
    let (revision, compacted) = (record.revision, record.compacted_revision);
    if let Some(target) = compactor.decide(moment(), revision, compacted) {
        let request = CompactionRequest {
            revision: target,
            physical: false,
        };
        member
            .propose(command(Op::Compact(request)))
            .await
            .map_err(text)?;
        member.world().count("compaction");
    }
    if compacted > 0 {
        let scrub = Scrub {
            limit: SCRUB_EVENTS,
        };
        member
            .propose(command(Op::Scrub(scrub)))
            .await
            .map_err(text)?;
    }
    Ok(())
}
