//! A snapshot file as a stream: written by a thread inside one read of the state, so that it shows
//! one moment, at the pace of the client.
//!
//! As etcd has it, the last blob is the SHA-256 of all before. The file is ours.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cfgsvc_core::read::machine_record;
use cfgsvc_core::{export, snapshot_file};
use cfgsvc_proto::etcd::SnapshotResponse;
use cfgsvc_proto::state::SnapshotHeader;
use cluster::View;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::status;
use crate::clock;
use crate::service::{Service, read_group};

/// Bytes of one message; etcd's clients write them as they come.
const BLOB_BYTES: usize = 256 << 10;
/// Blobs that wait for a slow client.
const BLOBS_WAITING: usize = 4;

type Blob = Result<SnapshotResponse, Status>;

/// Starts the thread that writes.
pub(super) fn start(service: &Arc<Service>) -> Result<ReceiverStream<Blob>, Status> {
    let estimate = service
        .group
        .disk_bytes()
        .map_err(|error| status::of_io(&error))?;
    let (blobs, received) = mpsc::channel(BLOBS_WAITING);
    let service = Arc::clone(service);
    tokio::task::spawn_blocking(move || {
        let mut sender = Sender {
            blobs,
            remaining: estimate,
            header: service.header(service.hub.published()),
            stopping: service.stopping.clone(),
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
            Err(error) => status::of_io(&error),
        };
        // A client that went away does not wait for the reason.
        let _ = sender.blobs.blocking_send(Err(error));
    });
    Ok(ReceiverStream::new(received))
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
    blobs: mpsc::Sender<Blob>,
    /// Estimate of the bytes that are still to come.
    remaining: u64,
    header: cfgsvc_proto::etcd::ResponseHeader,
    stopping: watch::Receiver<bool>,
}

impl Sender {
    fn send(&mut self, mut piece: Bytes) -> io::Result<()> {
        while !piece.is_empty() {
            if *self.stopping.borrow() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let blob = piece.split_to(piece.len().min(BLOB_BYTES));
            self.remaining = self.remaining.saturating_sub(blob.len() as u64);
            let response = SnapshotResponse {
                header: Some(self.header),
                remaining_bytes: self.remaining,
                blob,
                version: crate::service::ETCD_VERSION.to_owned(),
            };
            self.blobs
                .blocking_send(Ok(response))
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }
}
