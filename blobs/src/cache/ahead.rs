//! How far ahead of its readers a blob is fetched.
//!
//! Invariant: nothing is fetched ahead of somebody who reads here and there; who goes on in order has a window that doubles with each
//! group, up to [`WINDOW`]. Several readers of one blob are told apart by where they are. Pure: no clock, no bytes.

use std::ops::Range;

/// The most bytes that are fetched ahead of one reader.
pub(super) const WINDOW: u64 = 16 << 20;
/// The most bytes that are asked for at once.
const RUN: u64 = 4 << 20;
/// How many readers of one blob are followed.
const READERS: usize = 4;
/// Who reads so many groups before where he was is still the same one: threads of the kernel overtake each other.
const BEHIND: u64 = 8;

/// One reader.
#[derive(Debug, Clone, Copy)]
struct Reader {
    /// The furthest group that was read.
    at: u64,
    /// Where what was asked for ahead ends.
    until: u64,
    /// In groups.
    window: u64,
}

/// The readers of one blob, the last one to be heard of first.
#[derive(Debug)]
pub(super) struct Ahead {
    group: u64,
    groups: u64,
    /// The widest window, in groups; less where the line is slow.
    most: u64,
    readers: Vec<Reader>,
}

impl Ahead {
    /// For a blob of so many groups, of so many bytes each.
    pub(super) fn new(group: u64, groups: u64) -> Ahead {
        Ahead { group, groups, most: WINDOW / group, readers: Vec::with_capacity(READERS) }
    }

    /// Takes note of how a fetch ahead of readers went. What comes too late is asked for in smaller pieces, down to a group.
    pub(super) fn went(&mut self, well: bool) {
        self.most = if well { (self.most * 2).min(WINDOW / self.group) } else { (self.most / 4).max(1) };
    }

    /// Takes note that a group is read, and says which others are to be fetched for those who come after.
    pub(super) fn read(&mut self, group: u64) -> Vec<Range<u64>> {
        let is_near =
            |reader: &Reader| (reader.at.saturating_sub(BEHIND)..=(reader.at + 1).max(reader.until)).contains(&group);
        let Some(known) = self.readers.iter().position(is_near) else {
            self.readers.truncate(READERS - 1);
            self.readers.insert(0, Reader { at: group, until: group + 1, window: 0 });
            return Vec::new();
        };
        self.readers[..=known].rotate_right(1);
        let reader = &mut self.readers[0];
        if group <= reader.at {
            return Vec::new();
        }
        reader.at = group;
        reader.window = (reader.window * 2).max(1).min(self.most);
        let begin = reader.until.max(group + 1);
        let end = (group + 1 + reader.window).min(self.groups);
        // In a few large pieces instead of one for each group that is read.
        if end <= begin || (end - begin < reader.window / 2 && end < self.groups) {
            return Vec::new();
        }
        reader.until = end;
        // The window is in at least four of them.
        let step = (RUN / self.group).min(self.most / 4).max(1);
        (begin..end).step_by(usize::try_from(step).unwrap_or(1)).map(|at| at..end.min(at + step)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: u64 = 256 << 10;

    #[test]
    fn the_window_grows_while_it_is_read_in_order() {
        let mut ahead = Ahead::new(GROUP, 1000);
        assert!(ahead.read(0).is_empty(), "one group may be all that is wanted");
        let mut fetched = 1;
        let mut widest = 0;
        for group in 1..1000 {
            for run in ahead.read(group) {
                assert_eq!(run.start, fetched.max(group + 1), "each group once, in order");
                assert!((run.end - run.start) * GROUP <= RUN);
                fetched = run.end;
            }
            fetched = fetched.max(group + 1);
            widest = widest.max(fetched - group - 1);
        }
        assert_eq!((widest * GROUP, fetched), (WINDOW, 1000));
    }

    #[test]
    fn a_slow_line_is_asked_for_less_at_once() {
        let mut ahead = Ahead::new(GROUP, 1 << 20);
        let widest = |ahead: &mut Ahead, from: u64| {
            let runs: Vec<_> = (from..from + 200).flat_map(|group| ahead.read(group)).collect();
            runs.iter().map(|run| run.end - run.start).max().unwrap_or(0)
        };
        assert_eq!(widest(&mut ahead, 0), RUN / GROUP);
        (0..5).for_each(|_| ahead.went(false));
        assert_eq!(widest(&mut ahead, 10_000), 1);
        (0..9).for_each(|_| ahead.went(true));
        assert_eq!(widest(&mut ahead, 20_000), RUN / GROUP);
    }

    #[test]
    fn whoever_jumps_has_none_and_readers_are_told_apart() {
        let mut ahead = Ahead::new(GROUP, 1 << 20);
        for group in (0..1_000_000).step_by(1000) {
            assert!(ahead.read(group).is_empty(), "{group}");
        }
        let mut asked = 0;
        for step in 0..100 {
            for reader in 0..READERS as u64 {
                asked += ahead.read(reader * 10_000 + step).len();
            }
        }
        assert!(asked >= 4 * READERS, "{asked}");
        let mut large = Ahead::new(2 * WINDOW, 10);
        assert!((0..10).all(|group| large.read(group).is_empty()), "groups that are larger than the window");
    }
}
