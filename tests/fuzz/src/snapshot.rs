//! Snapshot files, and the records in them.

use cfgsvc_core::snapshot_file::{HASH_BYTES, Reader, SnapshotError, Writer};
use cfgsvc_core::tables;
use cfgsvc_proto::state::{Record, SnapshotHeader};

use crate::commands::record as drawn_record;
use crate::draw::Draw;

/// What a reader makes of a file.
type Read = Result<(SnapshotHeader, Vec<Record>), SnapshotError>;

/// A file in one piece and in many, which must come to the same; one that was written and then
/// changed must be refused.
pub(crate) fn file(data: &[u8]) {
    let mut draw = Draw::new(data);
    if draw.flag() {
        let rest = draw.rest();
        drop(same_in_pieces(&mut Draw::new(data), rest));
        return;
    }
    let records: Vec<Record> = (0..draw.below(12))
        .map(|_| drawn_record(&mut draw))
        .collect();
    let header = SnapshotHeader {
        revision: draw.signed(40),
        version: draw.text(8),
        ..SnapshotHeader::default()
    };
    let (mut writer, first) = Writer::new(header.clone());
    let mut written = first.to_vec();
    for record in records.clone() {
        written.extend(writer.push(record).unwrap_or_default());
    }
    written.extend(writer.finish());
    let mut changed = written.clone();
    for _ in 0..draw.below(4) {
        change(&mut draw, &mut changed);
    }
    let found = same_in_pieces(&mut draw, &changed);
    match found {
        Ok((found, found_records)) => {
            assert_eq!(changed, written, "a changed file was taken for whole");
            assert_eq!((found.revision, found_records), (header.revision, records));
        }
        Err(error) => {
            assert_ne!(changed, written, "{error}");
            assert!(!error.to_string().is_empty());
        }
    }
}

fn change(draw: &mut Draw<'_>, file: &mut Vec<u8>) {
    let length = file.len() as u64;
    let near_end = length.saturating_sub(HASH_BYTES as u64 + 8);
    let at = if draw.flag() {
        draw.below(length + 1)
    } else {
        near_end + draw.below(length - near_end + 1)
    };
    let at = usize::try_from(at).unwrap_or(0);
    match draw.below(4) {
        0 => file.truncate(at),
        1 => file.insert(at, draw.byte()),
        _ if at < file.len() => file[at] ^= draw.byte(),
        _ => file.push(draw.byte()),
    }
}

fn same_in_pieces(draw: &mut Draw<'_>, file: &[u8]) -> Read {
    let whole = read(file, |_| file.len());
    let pieces = read(file, |left| {
        usize::try_from(draw.below(left as u64)).unwrap_or(0) + 1
    });
    assert_eq!(whole.is_ok(), pieces.is_ok(), "{whole:?} {pieces:?}");
    if let (Ok(whole), Ok(pieces)) = (&whole, &pieces) {
        assert_eq!(whole, pieces);
    }
    whole
}

/// Feeds `file` in pieces; `next` is told how many bytes are left, and says how many come next.
fn read(file: &[u8], mut next: impl FnMut(usize) -> usize) -> Read {
    let mut reader = Reader::new();
    let mut records = Vec::new();
    let mut rest = file;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(next(rest.len()).min(rest.len()));
        records.extend(reader.feed(piece)?);
        rest = after;
    }
    Ok((reader.finish()?, records))
}

/// A key and a value of the store, as a snapshot file may hold them.
pub(crate) fn record(data: &[u8]) {
    let mut draw = Draw::new(data);
    let Record { key, value } = if draw.flag() {
        drawn_record(&mut draw)
    } else {
        Record {
            key: draw.bytes(40).to_vec().into(),
            value: draw.rest().to_vec().into(),
        }
    };
    if let Ok(table) = tables::verify(&key, &value) {
        assert_eq!(tables::Table::of(&key), Some(table));
        assert!(table.range().contains(&key));
    }
    if let Ok((raw, revision)) = tables::split_old(&key)
        && tables::Table::of(&key) == Some(tables::Table::Old)
    {
        assert_eq!(tables::old(&raw, revision), key, "two keys for one version");
    }
    if let Ok((revision, index)) = tables::split_history(&key) {
        assert!(tables::history(revision, index).len() == key.len());
    }
    let _ = tables::old_mod_revision(&key);
    let _ = tables::split_number(&key);
}
