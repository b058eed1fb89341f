//! A comparison for people.

use super::Cause;

/// Stub.
pub fn cause(cause: &Cause) -> String {
    format!("{cause:?}")
}
