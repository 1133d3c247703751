//! Says at most now and then what goes wrong all the time.

/// Milliseconds between two lines of one kind.
const SAY_EVERY_MS: u64 = 10_000;

/// When something was last said, and how often it was not since then.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    said_ms: Option<u64>,
    unsaid: u64,
}

impl Complaints {
    /// Whether it is to be said now; then, how often it was not said since the last time.
    pub(crate) fn due(&mut self, now_ms: u64) -> Option<u64> {
        let recent = |said: u64| now_ms < said.saturating_add(SAY_EVERY_MS);
        if self.said_ms.is_some_and(recent) {
            self.unsaid += 1;
            return None;
        }
        self.said_ms = Some(now_ms);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_is_said_and_then_one_in_ten_seconds_with_the_count_of_the_others() {
        let mut complaints = Complaints::default();
        let said = [5, 6, 10_004, 10_005, 10_006, 40_000].map(|at| complaints.due(at));
        assert_eq!(said, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
