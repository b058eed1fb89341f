//! What the words of a case stand for in a real store: keys, names, ids and bytes of one lane, which no other lane has.

use std::collections::BTreeMap;

use bytes::Bytes;
use provender_core::execution::{Executor, Exit, Outcome};
use provender_core::spec::{Input, Mount};
use provender_core::transition::Request;
use provender_core::tree::{Node, Tree};
use provender_core::{Digest, ExecutionId, Space, Spec, TaskKey};

use super::step::{Blob, Content, Id, Key, Name, Pinned};

/// The things of a lane.
#[derive(Debug)]
pub struct Things {
    /// Its space.
    pub space: Space,
    salt: [u8; 8],
    contents: BTreeMap<Digest, Content>,
}

impl Things {
    /// Those of lane `n` of all that were ever made.
    pub fn new(n: u64) -> Things {
        let space = Space::new(format!("lane {n}")).unwrap();
        let mut things = Things { space, salt: n.to_be_bytes(), contents: BTreeMap::new() };
        things.contents = Content::ALL.iter().map(|it| (things.digest(Blob::Folder(*it)), *it)).collect();
        things.contents.insert(Digest::of(&Tree::new().encode().unwrap()), Content::Nothing);
        things
    }

    /// A key.
    pub fn key(&self, key: Key) -> TaskKey {
        format!("model:{}", key.0).parse().unwrap()
    }

    /// The word of a key.
    pub fn key_of(&self, key: &TaskKey) -> Key {
        Key(key.id().parse().unwrap())
    }

    /// A name.
    pub fn name(&self, name: Name) -> provender_core::Name {
        provender_core::Name::new(format!("model/{}", name.0)).unwrap()
    }

    /// An execution's id.
    pub fn id(&self, id: Id) -> ExecutionId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.salt);
        bytes[14..].copy_from_slice(&id.0.to_be_bytes());
        ExecutionId(bytes)
    }

    /// The word of an id.
    pub fn id_of(&self, id: ExecutionId) -> Id {
        assert_eq!(id.0[..8], self.salt, "another lane's");
        Id(u16::from_be_bytes([id.0[14], id.0[15]]))
    }

    /// What a pin keeps.
    pub fn pinned(&self, what: Pinned) -> provender_core::blob::Pinned {
        match what {
            Pinned::Key(key) => provender_core::blob::Pinned::Key(self.key(key)),
            Pinned::Name(name) => provender_core::blob::Pinned::Name(self.name(name)),
            Pinned::All => provender_core::blob::Pinned::Prefix("model".into()),
            Pinned::Tree(content) => provender_core::blob::Pinned::Tree(self.digest(Blob::Folder(content))),
        }
    }

    /// The bytes of a blob.
    pub fn bytes(&self, blob: Blob) -> Bytes {
        match blob {
            Blob::File(Content::Nothing) | Blob::Folder(Content::Nothing) => Tree::new().encode().unwrap(),
            Blob::File(Content::Tiny) => self.salt.to_vec().into(),
            Blob::File(Content::Small(n)) => [&self.salt[..], &[n; 100]].concat().into(),
            Blob::File(Content::Large(n)) => [&self.salt[..], &[n; 20_000]].concat().into(),
            Blob::Folder(content) => {
                let mut tree = Tree::new();
                let file = Node::File { digest: self.digest(Blob::File(content)), executable: false };
                tree.insert("out", file).unwrap();
                tree.encode().unwrap()
            }
        }
    }

    /// The digest of a blob.
    pub fn digest(&self, blob: Blob) -> Digest {
        Digest::of(&self.bytes(blob))
    }

    /// The content whose folder this is.
    pub fn content_of(&self, root: &Digest) -> Option<Content> {
        self.contents.get(root).copied()
    }

    /// What an executor asks with.
    pub fn request(&self, id: Id, key: Key, name: Name, check: bool, seconds: u64) -> Request {
        let mut spec = Spec::new(self.name(name));
        spec.outputs = vec!["out".into()];
        spec.policy.required.insert("out".into(), 10);
        if let Some(read) = key.reads() {
            let input = Input { mount: Mount::InPlace, content: None, key: Some(self.key(read)), execution: None };
            spec.inputs.insert("in".into(), input);
        }
        let ttl = std::time::Duration::from_secs(seconds);
        Request {
            id: self.id(id),
            key: self.key(key),
            spec,
            executor: Executor::default(),
            ttl,
            check,
            remarks: Default::default(),
        }
    }

    /// What an executor reports.
    pub fn outcome(&self, exit: i32, content: Option<Content>) -> Outcome {
        let outputs = content.map(|content| self.digest(Blob::Folder(content)));
        Outcome { exit: Some(Exit::Code(exit)), outputs, ..Outcome::default() }
    }
}
