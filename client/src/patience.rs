//! How long a transfer that was cut off is gone on with: through a daemon's restart, but not for ever.

use std::time::{Duration, Instant};

/// Without any progress for so long, it is given up.
const LONGEST: Duration = Duration::from_secs(15);
const FIRST: Duration = Duration::from_millis(50);
const MOST: Duration = Duration::from_secs(1);

/// What is left of it since the last progress.
#[derive(Debug)]
pub(crate) struct Patience {
    lost_at: Option<Instant>,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new() -> Patience {
        Patience { lost_at: None, pause: FIRST }
    }

    /// Says that there was progress.
    pub(crate) fn renew(&mut self) {
        *self = Patience::new();
    }

    /// Waits before another try, longer each time; `false` if there is to be none.
    pub(crate) async fn waits(&mut self) -> bool {
        let lost_at = *self.lost_at.get_or_insert_with(Instant::now);
        if lost_at.elapsed() >= LONGEST {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(MOST);
        true
    }
}
