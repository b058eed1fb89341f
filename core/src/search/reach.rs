//! Reach: where in the index what a condition holds of can stand.
//!
//! Of each field and term the index has a list of the executions, newest first, so lists of several fields can be cut with each other. A range
//! of terms is many such lists, one after the other.

use super::term::{self, Number};
use super::{Condition, End, Query, Test, time};
use crate::execution::ExecutionId;
use crate::time::Timestamp;

/// Where an execution stands in each list: newest first, then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub [u8; 24]);

impl Place {
    /// The place of an execution that began then.
    pub fn new(began: Timestamp, id: ExecutionId) -> Place {
        let mut place = [0; 24];
        place[..8].copy_from_slice(&(!began.millis()).to_be_bytes());
        place[8..].copy_from_slice(&id.0);
        Place(place)
    }

    /// The execution.
    pub fn execution(&self) -> ExecutionId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[8..]);
        ExecutionId(id)
    }
}

/// The time in which executions began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first moment.
    pub first: Timestamp,
    /// The last moment, within.
    pub last: Timestamp,
}

impl Window {
    /// All time.
    pub const ALL: Window = Window { first: Timestamp::MIN, last: Timestamp::MAX };

    /// The place behind which lists have it; none if it goes on for ever.
    pub fn after(&self) -> Option<Place> {
        let beyond = (self.last < Timestamp::MAX).then(|| Timestamp::from_millis(self.last.millis() + 1));
        beyond.map(|beyond| Place::new(beyond, ExecutionId([0xff; 16])))
    }

    /// Whether a place is older, as are all that come behind it.
    pub fn is_past(&self, place: &Place) -> bool {
        *place > Place::new(self.first, ExecutionId([0xff; 16]))
    }
}

/// Where a condition's executions stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// In one list, of this term.
    List(Vec<u8>),
    /// In the lists of the terms above the first and below the second, as bytes.
    Span(Vec<u8>, Vec<u8>),
    /// At these places of any list; nowhere, if there are none.
    Time(Option<Window>),
}

/// More than any row has behind what it begins with.
const BEYOND: [u8; 512] = [0xff; 512];

/// What is above all that begins so, and below whatever else is.
fn beyond(prefix: &[u8]) -> Vec<u8> {
    [prefix, &BEYOND].concat()
}

impl Condition {
    /// Where in the lists of its field it reaches.
    pub fn reach(&self) -> Reach {
        if self.field == time::BEGAN {
            let window = time::window(|text| self.place_of(text));
            return Reach::Time(window.map(|(first, last)| Window { first, last }));
        }
        match &self.test {
            // A text that reads as a number stands among the numbers as well.
            Test::Is(text) | Test::Literal(text) => {
                Reach::List(Number::of_text(text).map_or_else(|| term::of_text(text), Number::term))
            }
            Test::Begins(prefix) if prefix.is_empty() => Reach::Span(Vec::new(), beyond(&[])),
            Test::Begins(prefix) => {
                let (from, _) = term::text_prefix(prefix);
                let to = beyond(&from);
                Reach::Span(from, to)
            }
            Test::Numbers { from, to } => {
                let end = |end: &End<Number>| (end.at.term(), end.within || !end.at.is_exact());
                span(true, from.as_ref().map(end), to.as_ref().map(end))
            }
            Test::Texts { from, to } => {
                let end = |end: &End<String>| {
                    let (prefix, whole) = term::text_prefix(&end.at);
                    (prefix, end.within || !whole)
                };
                span(false, from.as_ref().map(end), to.as_ref().map(end))
            }
        }
    }
}

/// Between two ends, each with whether what begins with it is within.
fn span(numbers: bool, from: Option<(Vec<u8>, bool)>, to: Option<(Vec<u8>, bool)>) -> Reach {
    let all = term::all(numbers);
    let from = from.map_or_else(|| all.clone(), |(term, within)| if within { term } else { beyond(&term) });
    let to = to.map_or_else(|| beyond(&all), |(term, within)| if within { beyond(&term) } else { term });
    Reach::Span(from, to)
}

impl Query {
    /// The time to which its conditions confine it; none if nothing can match.
    pub fn window(&self) -> Option<Window> {
        self.conditions.iter().try_fold(Window::ALL, |so_far, condition| match condition.reach() {
            Reach::Time(window) => {
                let window = window?;
                let both = Window { first: so_far.first.max(window.first), last: so_far.last.min(window.last) };
                (both.first <= both.last).then_some(both)
            }
            _ => Some(so_far),
        })
    }
}
