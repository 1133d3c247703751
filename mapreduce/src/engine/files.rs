//! Input files, opened as what they hold: unpacked.

use crate::engine::task::TaskError;
use crate::store::{InputFile, Packing};
use flate2::read::MultiGzDecoder;
use std::io::Read;

/// Opens a file at an octet of what it holds, unpacked; one that is packed has no other octet than
/// the first at which it can be opened. Most of what is read ends before `until`.
pub(crate) fn open(
    file: &InputFile,
    at: u64,
    until: Option<u64>,
) -> Result<Box<dyn Read>, TaskError> {
    let cannot = |source| TaskError::Input {
        name: file.name.clone(),
        offset: at,
        source: Box::new(source),
    };
    Ok(match file.packing {
        Packing::None => file.open(at, until).map_err(cannot)?,
        Packing::Gzip => Box::new(MultiGzDecoder::new(file.open(0, None).map_err(cannot)?)),
        Packing::Zstd => {
            let packed = file.open(0, None).map_err(cannot)?;
            Box::new(zstd::Decoder::new(packed).map_err(cannot)?)
        }
    })
}
