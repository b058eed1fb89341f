//! What a round makes: nested folders with small and large files, unlike any other round's.

use bytes::Bytes;
use provender_core::execution::{Exit, Log, Outcome};
use provender_core::{Digest, Name, Node, Space, Tree};
use provender_daemon::store::{Store, StoreError};

/// The outputs and the log of one round.
pub(crate) struct Content {
    /// `small`, `sub/small`, `sub/deep/large`: few enough bytes for a row, and too many.
    pub(crate) files: [(&'static str, Bytes); 3],
    /// The folders, from the innermost out; the last one is the root.
    pub(crate) folders: Vec<Bytes>,
    pub(crate) log: Bytes,
}

fn file(digest: Digest) -> Node {
    Node::File { digest, executable: false }
}

fn folder(entries: &[(&str, Node)]) -> Bytes {
    let mut tree = Tree::new();
    entries.iter().for_each(|(name, node)| tree.insert(name.to_string(), node.clone()).unwrap());
    tree.encode().unwrap()
}

impl Content {
    pub(crate) fn new(seed: u64) -> Content {
        let text = |what: &str| Bytes::from(format!("{what} of round {seed}"));
        let large = format!("{seed:8}").repeat(5_000).into();
        let files = [("small", text("small")), ("sub/small", text("second")), ("sub/deep/large", large)];
        let of = |n: usize| file(Digest::of(&files[n].1));
        let within = |bytes: &Bytes| Node::Directory { digest: Digest::of(bytes) };
        let deep = folder(&[("large", of(2))]);
        let sub = folder(&[("small", of(1)), ("deep", within(&deep))]);
        let root = folder(&[("small", of(0)), ("sub", within(&sub))]);
        Content { files, folders: vec![deep, sub, root], log: text("log") }
    }

    pub(crate) fn root(&self) -> Digest {
        Digest::of(&self.folders[2])
    }

    pub(crate) fn large(&self) -> &Bytes {
        &self.files[2].1
    }

    pub(crate) fn outcome(&self, code: i32) -> Outcome {
        let log = Log { digest: Digest::of(&self.log), cut: 0 };
        Outcome { exit: Some(Exit::Code(code)), stdout: Some(log), outputs: Some(self.root()), ..Outcome::default() }
    }

    pub(crate) async fn upload_large(&self, store: &Store, space: &Space) -> Result<(), StoreError> {
        let mut upload = store.upload(space, Some(Digest::of(self.large())));
        for piece in self.large().chunks(15_000) {
            upload.write(Bytes::copy_from_slice(piece)).await?;
        }
        upload.finish().await.map(drop)
    }

    /// As an executor does: what is small at once, what is large in pieces, folders last.
    pub(crate) async fn upload(&self, store: &Store, space: &Space) -> Result<(), StoreError> {
        let small = vec![self.files[0].1.clone(), self.files[1].1.clone(), self.log.clone()];
        store.put_small(space, small).await?;
        self.upload_large(store, space).await?;
        store.put_small(space, self.folders.clone()).await.map(drop)
    }

    /// Fails unless the key's outputs are these, each byte readable and right, as `latest` of the name too.
    pub(crate) async fn is_whole(
        &self,
        store: &Store,
        space: &Space,
        name: &Name,
        outputs: Option<Digest>,
        place: &str,
    ) {
        assert_eq!(outputs, Some(self.root()), "{place}");
        for (path, bytes) in &self.files {
            let mut at = self.root();
            for part in path.split('/') {
                let tree = store.tree(space, &at).await.unwrap_or_else(|error| panic!("{place}: {path}: {error}"));
                at = tree.get(part.as_bytes()).and_then(Node::digest).unwrap();
            }
            let read = store.read_whole(space, &at, 1 << 20).await;
            assert!(read.as_ref().is_ok_and(|read| read == bytes), "{place}: {path}: {read:?}");
        }
        let latest = store.latest(space, name).await.unwrap().unwrap_or_else(|| panic!("{place}: there is no latest"));
        assert_eq!(latest.outcome.outputs, Some(self.root()), "{place}");
    }
}
