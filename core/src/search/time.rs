//! Times: a condition on when executions began, as a window in time.

use std::cmp::Ordering;

use crate::time::Timestamp;

/// The field of when an execution began. It is no row of the index: rows are ordered by it.
pub(super) const BEGAN: &str = "began";

/// The first and the last moment whose text lies where `place_of` says `Equal`; `None` if there is none. Texts sort as their moments do, so
/// both are found by halving.
pub(super) fn window(place_of: impl Fn(&str) -> Ordering) -> Option<(Timestamp, Timestamp)> {
    let least = |holds: &dyn Fn(Ordering) -> bool| {
        let (mut low, mut high) = (0, Timestamp::MAX.millis() + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match holds(place_of(&Timestamp::from_millis(middle).to_string())) {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        low
    };
    let first = least(&|place| place != Ordering::Less);
    let beyond = least(&|place| place == Ordering::Greater);
    (first < beyond).then(|| (Timestamp::from_millis(first), Timestamp::from_millis(beyond - 1)))
}
