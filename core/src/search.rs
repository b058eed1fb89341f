//! Searching: what may be asked of executions, and which of them it holds of.
//!
//! Owns the text of a condition, [`Query`], and what a condition asks of the index (see [`Reach`]). Invariant: the index proposes and
//! [`Query::matches`] decides, so whatever stands in the index, nothing wrong is found; and for whatever matches, the index has a row within each
//! condition's reach (up to [`MAX_TERMS`]). It must not know how the index is read.

pub mod facts;
mod reach;
pub mod term;
mod time;

use crate::execution::Execution;
use crate::spec::Spec;

pub use facts::MAX_TERMS;
pub use reach::{Place, Reach, Window};
use term::Number;

/// The most conditions of a query.
pub const MAX_CONDITIONS: usize = 32;
/// The longest condition, in bytes.
pub const MAX_CONDITION: usize = 1 << 10;

/// One condition. Its text is a field, an operator and a value:
///
/// | text | holds of |
/// | --- | --- |
/// | `FIELD=VALUE` | the value; as numbers, if both read as numbers |
/// | `FIELD==TEXT` | exactly this text, whatever it looks like |
/// | `FIELD=TEXT*` | what begins with the text; `FIELD=*`: whatever has the field |
/// | `FIELD=A..B`, `FIELD=A..`, `FIELD=..B` | what lies between, both ends included |
/// | `FIELD>V`, `>=`, `<`, `<=` | what lies beyond |
///
/// A comparison with numbers takes numbers alone, any other takes texts, bytewise; there, what begins with an end counts as equal to it,
/// so that `began<=2026-11-22` takes that whole day.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    field: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Is(String),
    Literal(String),
    Begins(String),
    Numbers { from: Option<End<Number>>, to: Option<End<Number>> },
    Texts { from: Option<End<String>>, to: Option<End<String>> },
}

/// An end of a range, and whether it belongs to it.
#[derive(Debug, Clone, PartialEq)]
struct End<T> {
    at: T,
    within: bool,
}

/// Why a text is no condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// A comparison's signs are turned round.
    #[error("{0:?}: write >= and <=; a value that begins with < or > takes ==")]
    Turned(String),
    /// It has no operator.
    #[error("{0:?} is no condition: it takes FIELD=VALUE, or one of == > >= < <= in place of =")]
    NoOperator(String),
    /// It has no field.
    #[error("{0:?} has no field before its {1}: name one, such as params.lr or image")]
    NoField(String, &'static str),
    /// `!=` is no operator.
    #[error("{0:?}: there is no !=; a condition says what is to be found")]
    Not(String),
    /// A comparison has nothing to compare with.
    #[error("{0:?} has no value after its {1}: give one")]
    NoValue(String, &'static str),
    /// A range has no ends.
    #[error("{0:?} is a range without ends: give one of them, or FIELD=* for whatever has the field")]
    NoEnds(String),
    /// It is too long.
    #[error("a condition has at most {MAX_CONDITION} bytes, this one has {0}: give the beginning of the value and a *")]
    Long(usize),
    /// There are none, or too many.
    #[error("{0} conditions: a search takes 1 to {MAX_CONDITIONS}")]
    Count(usize),
}

/// The fields that are not a parameter's, and what fields of several parts begin with.
const FIELDS: [&str; 11] = [
    "name",
    "program",
    "command",
    "image",
    "code_version",
    "outputs",
    "outputs.hash",
    "verdict",
    "rule",
    "began",
    "policy.exit_codes",
];
const FAMILIES: [&str; 9] =
    ["params.", "env.", "inputs.", "policy.required.", "labels.", "metrics.", "exit.", "usage.", "executor."];
/// What is known without the spec.
const OF_EXECUTION: [&str; 10] =
    ["name", "verdict", "rule", "began", "outputs.hash", "exit.", "usage.", "labels.", "metrics.", "executor."];

/// A field's one path: à la mode's `sha` is the version of the code, and what is none of ours is a parameter.
fn canonical(field: &str) -> String {
    if field == "sha" {
        "code_version".into()
    } else if FIELDS.contains(&field) || FAMILIES.iter().any(|family| field.starts_with(family)) {
        field.into()
    } else {
        format!("params.{field}")
    }
}

impl std::str::FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Condition, ConditionError> {
        if text.len() > MAX_CONDITION {
            return Err(ConditionError::Long(text.len()));
        }
        let own = || text.to_owned();
        let at = text.find(['=', '<', '>']).ok_or_else(|| ConditionError::NoOperator(own()))?;
        let (field, rest) = text.split_at(at);
        let operators = ["==", ">=", "<=", "=", ">", "<"];
        let operator = operators.into_iter().find(|operator| rest.starts_with(operator)).unwrap_or("=");
        let value = &rest[operator.len()..];
        if field.is_empty() {
            return Err(ConditionError::NoField(own(), operator));
        }
        if field.ends_with('!') && operator.starts_with('=') {
            return Err(ConditionError::Not(own()));
        }
        if operator == "=" && value.starts_with(['<', '>']) {
            return Err(ConditionError::Turned(own()));
        }
        let field = canonical(field.trim_end());
        // Verdicts are in capitals.
        let value = &if field == "verdict" { value.to_uppercase() } else { value.to_owned() };
        // Times are texts, also where a year alone looks like a number.
        let number = |text: &str| if field == time::BEGAN { None } else { Number::of_text(text) };
        let range = |from: Option<(&str, bool)>, to: Option<(&str, bool)>| {
            let numbers = [from, to].into_iter().flatten().all(|(text, _)| number(text).is_some());
            if numbers {
                let end = |(text, within): (&str, bool)| Some(End { at: number(text)?, within });
                Test::Numbers { from: from.and_then(end), to: to.and_then(end) }
            } else {
                let end = |(text, within): (&str, bool)| End { at: text.to_owned(), within };
                Test::Texts { from: from.map(end), to: to.map(end) }
            }
        };
        let test = match operator {
            "==" => Test::Literal(value.clone()),
            "=" => match (value.split_once(".."), value.strip_suffix('*')) {
                (Some(("", "")), _) => return Err(ConditionError::NoEnds(own())),
                (Some((from, to)), _) => {
                    let end = |text| Some((text, true)).filter(|(text, _): &(&str, bool)| !text.is_empty());
                    range(end(from), end(to))
                }
                (None, Some(prefix)) => Test::Begins(prefix.into()),
                // A day is all that began on it.
                (None, None) if field == time::BEGAN => Test::Begins(value.clone()),
                (None, None) => Test::Is(value.clone()),
            },
            _ if value.is_empty() => return Err(ConditionError::NoValue(own(), operator)),
            _ => {
                let end = Some((value.as_str(), operator.ends_with('=')));
                if operator.starts_with('>') { range(end, None) } else { range(None, end) }
            }
        };
        Ok(Condition { field, test })
    }
}

impl Condition {
    /// That a field is exactly this text, or the number that it is, whatever signs are in either.
    pub fn is(field: &str, value: impl Into<String>) -> Condition {
        Condition { field: canonical(field), test: Test::Literal(value.into()) }
    }

    /// The field that it is about, by its one path.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// Whether it holds of a value.
    fn holds(&self, value: &serde_json::Value) -> bool {
        let word = || facts::word(value);
        match &self.test {
            Test::Is(text) => match (Number::of_text(text), Number::of_value(value)) {
                (Some(asked), Some(number)) if self.field != time::BEGAN => asked == number,
                _ => word() == **text,
            },
            Test::Literal(text) => word() == **text,
            Test::Begins(prefix) if prefix.is_empty() => true,
            Test::Begins(prefix) => !value.is_number() && word().starts_with(&**prefix),
            Test::Numbers { from, to } => Number::of_value(value).is_some_and(|number| {
                let beyond = |end: &End<Number>| number > end.at || end.within && number == end.at;
                let below = |end: &End<Number>| number < end.at || end.within && number == end.at;
                from.as_ref().is_none_or(beyond) && to.as_ref().is_none_or(below)
            }),
            Test::Texts { .. } => !value.is_number() && self.place_of(&word()) == std::cmp::Ordering::Equal,
        }
    }

    /// Where a text lies: before what it holds of, in it, or behind it.
    fn place_of(&self, text: &str) -> std::cmp::Ordering {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let (from, to) = match &self.test {
            Test::Is(asked) | Test::Literal(asked) => return text.cmp(asked),
            Test::Begins(prefix) if text.starts_with(&**prefix) => return Equal,
            Test::Begins(prefix) => return text.cmp(prefix),
            Test::Texts { from, to } => (from, to),
            Test::Numbers { .. } => return Equal,
        };
        // What begins with an end counts as equal to it.
        let against = |end: &End<String>| if text.starts_with(&*end.at) { Equal } else { text.cmp(&*end.at) };
        match (from, to) {
            (Some(end), _) if against(end) == Less || against(end) == Equal && !end.within => Less,
            (_, Some(end)) if against(end) == Greater || against(end) == Equal && !end.within => Greater,
            _ => Equal,
        }
    }

    fn of_execution(&self) -> bool {
        let is =
            |field: &&str| if field.ends_with('.') { self.field.starts_with(*field) } else { self.field == **field };
        OF_EXECUTION.iter().any(is)
    }
}

/// Conditions that all have to hold of one execution and its spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    conditions: Vec<Condition>,
}

impl Query {
    /// One of conditions as people write them: 1 to 32, of at most 1 KiB each.
    pub fn parse(conditions: &[impl AsRef<str>]) -> Result<Query, ConditionError> {
        match conditions.len() {
            1..=MAX_CONDITIONS => {}
            count => return Err(ConditionError::Count(count)),
        }
        let conditions = conditions.iter().map(|text| text.as_ref().parse()).collect::<Result<_, _>>()?;
        Ok(Query { conditions })
    }

    /// One of conditions that are made already.
    pub fn of(conditions: Vec<Condition>) -> Query {
        Query { conditions }
    }

    /// The same, of executions alone whose names begin so.
    pub fn named(mut self, prefix: &str) -> Query {
        if !prefix.is_empty() {
            self.conditions.push(Condition { field: "name".into(), test: Test::Begins(prefix.into()) });
        }
        self
    }

    /// The same, of executions alone that failed or were abandoned.
    pub fn failed(mut self) -> Query {
        // RUNNING and SUCCEEDED come behind, in the alphabet.
        let to = Some(End { at: "FAILED".into(), within: true });
        self.conditions.push(Condition { field: "verdict".into(), test: Test::Texts { from: None, to } });
        self
    }

    /// The conditions.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// Whether it holds of an execution, as far as that is known without its spec.
    pub fn matches_execution(&self, execution: &Execution) -> Option<bool> {
        let facts = facts::of_execution(execution);
        let mut own = self.conditions.iter().filter(|condition| condition.of_execution());
        if !own.all(|condition| found(condition, &facts)) {
            return Some(false);
        }
        self.conditions.iter().all(Condition::of_execution).then_some(true)
    }

    /// Whether it holds of an execution and its spec.
    pub fn matches(&self, execution: &Execution, spec: &Spec) -> bool {
        self.matches_execution(execution).unwrap_or_else(|| {
            let facts = facts::of_spec(spec);
            let mut rest = self.conditions.iter().filter(|condition| !condition.of_execution());
            rest.all(|condition| found(condition, &facts))
        })
    }
}

fn found(condition: &Condition, facts: &[facts::Fact]) -> bool {
    facts.iter().any(|(field, value)| *field == condition.field && condition.holds(value))
}

#[cfg(test)]
mod tests;
