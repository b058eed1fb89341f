//! Extended attributes: what a file or directory is, in the store's words.
//!
//! Links have none: the kernel refuses those of users on them.

use super::node::Node;
use crate::source::Entry;

/// The whole name of a task, whatever was encoded or shortened in the path.
const NAME: &str = "user.provender.name";
/// The id of an execution, as `show exec:ID` takes it.
const EXECUTION: &str = "user.provender.execution";
/// Its key.
const KEY: &str = "user.provender.key";
/// BLAKE3 of a file's bytes, or of a directory's encoding, as 64 hexadecimal digits.
const DIGEST: &str = "user.provender.digest";

impl Node {
    /// Its attributes, sorted by name.
    pub(super) fn xattrs(&self) -> Vec<(&'static str, String)> {
        let execution = |entry: &Entry| (EXECUTION, entry.id.to_string());
        match self {
            Node::Names(_, Some(name)) => vec![(NAME, name.to_string())],
            Node::Execution(_, entry) => {
                vec![execution(entry), (KEY, entry.key.to_string()), (NAME, entry.name.to_string())]
            }
            Node::Document { entry, .. } => vec![execution(entry)],
            Node::Tree { digest, .. } | Node::Blob { digest, .. } => vec![(DIGEST, digest.hex())],
            _ => Vec::new(),
        }
    }
}
