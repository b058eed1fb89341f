//! When to do again what has come to an end: at once, then after ever longer pauses.
//!
//! Invariant: it takes no time, only beats (see [`PULSE`](crate::watchdog::PULSE)).

/// Pauses of up to half a minute, unless it lives.
#[derive(Debug, Default)]
pub(super) struct Again {
    tried: u32,
    /// Beats, until the next.
    pause: u32,
    /// Beats, since the last.
    lived: u32,
}

impl Again {
    /// So many beats of life, and it is tried as if it were the first time.
    pub(super) const LIFE: u32 = 20;
    /// The longest pause is 2 to the power of this, in beats.
    const MOST: u32 = 6;

    /// A beat in which all was well.
    pub(super) fn lives(&mut self) {
        self.lived += 1;
        if self.lived >= Again::LIFE {
            *self = Again::default();
        }
    }

    /// Whether to let this beat pass; if not, it counts as tried.
    pub(super) fn is_too_soon(&mut self) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
            return true;
        }
        self.tried = (self.tried + 1).min(Again::MOST);
        (self.pause, self.lived) = ((1 << self.tried) - 2, 0);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::Again;

    #[test]
    fn pauses_grow_until_it_lives() {
        let mut again = Again::default();
        let mut pause = || {
            let mut beats = 0;
            while again.is_too_soon() {
                beats += 1;
            }
            beats
        };
        assert_eq!([(); 8].map(|()| pause()), [0, 0, 2, 6, 14, 30, 62, 62]);
        for _ in 1..Again::LIFE {
            again.lives();
        }
        assert!(again.is_too_soon());
        again.lives();
        assert!(!again.is_too_soon());
    }
}
