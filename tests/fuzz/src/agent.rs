//! What an agent reads of its disk and of its guard, and the guard of its agent.

use cfgsvc_agent::guard::protocol::{Command, Lines, Report};
use cfgsvc_agent::state::VerdictFile;
use cfgsvc_core::placement::RoleName;

use crate::draw::Draw;

/// A verdict file, and lines between agent and guard, which come in pieces of any size.
pub(crate) fn target(data: &[u8]) {
    let mut draw = Draw::new(data);
    if draw.flag() {
        verdict(draw.rest());
    } else {
        let piece = usize::from(draw.byte().max(1));
        let lines = draw.rest();
        fed(lines, piece, Command::parse);
        fed(lines, piece, Report::parse);
    }
}

/// What is accepted says the same when it is written again, and serves no longer than it says.
fn verdict(text: &[u8]) {
    let role: RoleName = "db".parse().expect("a name");
    let Ok(file) = VerdictFile::parse(text, &role) else {
        return;
    };
    let again = serde_json::to_vec(&file).expect("plain data");
    assert_eq!(VerdictFile::parse(&again, &role).as_ref(), Ok(&file));
    assert!(!file.serves(&file.boot, file.deadline_nanos));
    assert!(!file.serves("another boot", 0) || file.boot == "another boot");
}

/// However it is cut, the same lines come out; and each reads again as it is written.
fn fed<T: Copy + PartialEq + std::fmt::Debug + std::fmt::Display>(
    bytes: &[u8],
    piece: usize,
    parse: impl Fn(&[u8]) -> Result<T, cfgsvc_agent::guard::protocol::LineError>,
) {
    let mut whole = Lines::default();
    let expected = match whole.feed(bytes, &parse) {
        Ok(taken) => (taken, None),
        Err((taken, error)) => (taken, Some(error)),
    };
    let mut cut = Lines::default();
    let (mut taken, mut refused) = (Vec::new(), None);
    for piece in bytes.chunks(piece) {
        match cut.feed(piece, &parse) {
            Ok(more) => taken.extend(more),
            Err((more, error)) => {
                taken.extend(more);
                refused = Some(error);
                break;
            }
        }
    }
    for line in &taken {
        assert_eq!(parse(line.to_string().as_bytes()).as_ref(), Ok(line));
    }
    assert_eq!((taken, refused), expected);
}
