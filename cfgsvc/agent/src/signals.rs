//! Signals as bytes in a pipe, for processes of one thread that wait in `poll`.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

/// The end of a pipe that gets a byte at each of these signals.
pub(crate) fn listen(signals: &[i32]) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, theirs.try_clone()?)?;
    }
    Ok(ours)
}

/// Empties a pipe of signals; whether there was anything in it.
pub(crate) fn drained(mut pipe: &UnixStream) -> bool {
    let mut any = false;
    let mut bytes = [0; 64];
    // It ends at the first read that would wait; the other end is never closed.
    while pipe.read(&mut bytes).is_ok_and(|read| read > 0) {
        any = true;
    }
    any
}
