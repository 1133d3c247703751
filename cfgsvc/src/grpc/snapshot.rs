//! A snapshot file as a stream: written by a thread inside one read of the state, so that it shows
//! one moment, at the pace of the client.
//!
//! As etcd has it, the last blob is the SHA-256 of all before. The file is ours.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cfgsvc_core::read::machine_record;
use cfgsvc_core::{export, snapshot_file};
use cfgsvc_proto::etcd::SnapshotResponse;
use cfgsvc_proto::state::SnapshotHeader;
use cluster::View;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::status;
use crate::clock;
use crate::service::{Service, read_group};
use crate::streams::{self, Gone, Outlet};

/// Bytes of one message; etcd's clients write them as they come.
const BLOB_BYTES: usize = 256 << 10;
/// Blobs that wait for a slow client.
const BLOBS_WAITING: usize = 4;

/// Wait for a client that does not read; the state is held for it meanwhile.
const STALL_PATIENCE: Duration = Duration::from_mins(1);

/// Starts the thread that writes.
pub(super) fn start(
    service: &Arc<Service>,
) -> Result<ReceiverStream<Result<SnapshotResponse, Status>>, Status> {
    let turn = service.scan_turn()?;
    let estimate = service
        .group
        .disk_bytes()
        .map_err(|error| status::of_io(&error))?;
    let (blobs, received) = streams::outlet(BLOBS_WAITING);
    let service = Arc::clone(service);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut sender = Sender {
            blobs,
            remaining: estimate,
            header: service.header(service.hub.published()),
            stopping: service.stopping.clone(),
            runtime: Handle::current(),
        };
        let cluster_id = service.status().cluster_id;
        let written = read_group(service.group.as_ref(), |view| {
            write(view, cluster_id, &mut sender)
        });
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(refused)) => status::of_refusal(&refused),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => status::stopped(),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Status::deadline_exceeded(format!(
                    "the client did not read the snapshot for {} s",
                    STALL_PATIENCE.as_secs()
                ))
            }
            Err(error) => status::of_io(&error),
        };
        sender.blobs.end(error);
    });
    Ok(received)
}

fn write(
    view: &dyn View,
    cluster_id: u64,
    sender: &mut Sender,
) -> io::Result<Result<(), cfgsvc_proto::state::Refusal>> {
    let machine = machine_record(view)?;
    sender.header.revision = machine.revision;
    let (mut file, first) = snapshot_file::Writer::new(SnapshotHeader {
        cluster_id,
        revision: machine.revision,
        compacted_revision: machine.compacted_revision,
        created_ms: clock::wall_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keys: export::current_keys(view)?,
        lost_after: machine.lost_after,
        lost_until: machine.lost_until,
        ..SnapshotHeader::default()
    });
    sender.send(first)?;
    let exported = export::records(view, &mut |record| match file.push(record) {
        Some(piece) => sender.send(piece),
        None => Ok(()),
    })?;
    if let Err(refused) = exported {
        return Ok(Err(refused));
    }
    let mut last = file.finish();
    let hash = last.split_off(last.len() - snapshot_file::HASH_BYTES);
    sender.send(last)?;
    sender.remaining = 0;
    sender.send(hash)?;
    Ok(Ok(()))
}

struct Sender {
    blobs: Outlet<SnapshotResponse>,
    /// Estimate of the bytes that are still to come.
    remaining: u64,
    header: cfgsvc_proto::etcd::ResponseHeader,
    stopping: watch::Receiver<bool>,
    runtime: Handle,
}

impl Sender {
    fn send(&mut self, mut piece: Bytes) -> io::Result<()> {
        while !piece.is_empty() {
            let blob = piece.split_to(piece.len().min(BLOB_BYTES));
            self.remaining = self.remaining.saturating_sub(blob.len() as u64);
            self.put(SnapshotResponse {
                header: Some(self.header),
                remaining_bytes: self.remaining,
                blob,
                version: crate::service::ETCD_VERSION.to_owned(),
            })?;
        }
        Ok(())
    }

    /// Waits for the client, but neither for ever nor when the member stops.
    fn put(&self, response: SnapshotResponse) -> io::Result<()> {
        let put = async {
            tokio::select! {
                biased;
                () = streams::stopped(self.stopping.clone()) => {
                    Err(io::ErrorKind::Interrupted.into())
                }
                sent = tokio::time::timeout(STALL_PATIENCE, self.blobs.send(response)) => {
                    sent?.map_err(|Gone| io::ErrorKind::BrokenPipe.into())
                }
            }
        };
        self.runtime.block_on(put)
    }
}
