//! The plan of a restore: every distinct folder fetched and checked, and all of it summed, before anything is written.
//!
//! Invariant: what passes is not too deep, not too many, and its sums are exact, so that a hostile tree whose few shared
//! folders stand for 2^40 paths is refused here. The encoded folders wait in an unlinked file, not in memory.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use provender_core::digest::Digest;
use provender_core::tree::{MAX_DEPTH, MAX_ENCODED, Node, Tree};

use super::capture::Counts;
use super::restore::RestoreError;

/// The largest blob, in bytes, that is fetched together with others.
pub const SMALL_BLOB: u64 = 256 << 10;
/// How many blobs are fetched together at most.
pub const BATCH_COUNT: usize = 1_000;
/// How many bytes are fetched together at most.
pub const BATCH_BYTES: u64 = 2 << 20;

/// How much of a lent file is copied and hashed at once, in bytes.
const PIECE: u64 = 1 << 20;

/// Whatever hindered a fetch.
pub type FetchError = Box<dyn Error + Send + Sync>;

/// What a restore needs of a store. The bytes are checked here, so a lying store is found out.
pub trait Fetch {
    /// Fetches distinct blobs in one exchange: at most [`BATCH_COUNT`], none over [`SMALL_BLOB`] bytes and together at
    /// most [`BATCH_BYTES`]. Gives each to `sink` once, whole, with its index in `wants`, in any order; returns early if
    /// the sink breaks.
    fn small(&self, wants: &[Digest], sink: &mut dyn FnMut(usize, &[u8]) -> ControlFlow<()>) -> Result<(), FetchError>;

    /// A file that should hold a blob and nothing else, open for reading alone, where the store is on this machine and lends one.
    fn lent(&self, _want: &Digest) -> Result<Option<File>, FetchError> {
        Ok(None)
    }

    /// Fails once it is no longer wanted; asked between the pieces of what is lent.
    fn is_wanted(&self) -> Result<(), FetchError> {
        Ok(())
    }

    /// Streams one blob of any size.
    fn large(&self, want: &Digest, out: &mut dyn Write) -> Result<(), FetchError>;
}

/// Fetches one batch with every blob checked against its digest; `sink` sees each exactly once.
pub(super) fn fetch_small(
    fetch: &dyn Fetch,
    wants: &[Digest],
    mut sink: impl FnMut(usize, &[u8]) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let mut failure = None;
    let mut seen = vec![false; wants.len()];
    let fetched = fetch.small(wants, &mut |index, bytes| {
        let checked = match wants.get(index) {
            Some(want) if seen[index] || Digest::of(bytes) != *want => Err(RestoreError::Corrupt { digest: *want }),
            Some(_) => sink(index, bytes),
            None => {
                Err(RestoreError::Fetch { source: format!("a blob that was not asked for (number {index})").into() })
            }
        };
        match checked {
            Ok(()) => {
                seen[index] = true;
                ControlFlow::Continue(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    fetched.map_err(|source| RestoreError::Fetch { source })?;
    match seen.iter().position(|seen| !seen) {
        Some(index) => Err(RestoreError::Missing { digest: wants[index] }),
        None => Ok(()),
    }
}

/// Streams one blob, checked on the way: `out` gets no byte beyond its size, and all of it is right if this is `Ok`.
pub(super) fn fetch_large(fetch: &dyn Fetch, want: &Digest, out: &mut dyn Write) -> Result<(), RestoreError> {
    let mut checked = Checked { out, hasher: blake3::Hasher::new(), left: want.size, failure: None };
    let fetched = fetch.large(want, &mut checked);
    match checked.failure {
        Some(Failure::TooLong) => return Err(RestoreError::Corrupt { digest: *want }),
        Some(Failure::Io(source)) => return Err(RestoreError::Write { source }),
        None => fetched.map_err(|source| RestoreError::Fetch { source })?,
    }
    if checked.left != 0 || *checked.hasher.finalize().as_bytes() != want.hash {
        return Err(RestoreError::Corrupt { digest: *want });
    }
    Ok(())
}

/// Fills an empty file that can be read, with extents of the store's own file where these can be shared. What is in it then is hashed.
pub(super) fn fetch_file(fetch: &dyn Fetch, want: &Digest, out: &mut File) -> Result<(), RestoreError> {
    let lent = fetch.lent(want).map_err(|source| RestoreError::Fetch { source })?;
    let Some(lent) = lent else { return fetch_large(fetch, want, out) };
    let write = |source| RestoreError::Write { source };
    let mut hasher = blake3::Hasher::new();
    let shared = provender_blobs::share(&lent, out).map_err(write)?;
    let mut piece = vec![0; PIECE.min(want.size) as usize];
    let mut offset = 0;
    while offset < want.size {
        fetch.is_wanted().map_err(|source| RestoreError::Fetch { source })?;
        let len = (want.size - offset).min(PIECE);
        if !shared {
            provender_blobs::copy_range(&lent, out, offset, len).map_err(write)?;
        }
        let piece = &mut piece[..len as usize];
        match out.read_exact_at(piece, offset) {
            Ok(()) => _ = hasher.update_rayon(piece),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(write(error)),
        }
        offset += len;
    }
    let size = out.metadata().map_err(write)?.len();
    if size == want.size && *hasher.finalize().as_bytes() == want.hash {
        return Ok(());
    }
    // What a disk changed under the daemon is found out by the daemon when it reads it itself.
    out.set_len(0).map_err(write)?;
    fetch_large(fetch, want, out)
}

struct Checked<'a> {
    out: &'a mut dyn Write,
    hasher: blake3::Hasher,
    left: u64,
    failure: Option<Failure>,
}

enum Failure {
    TooLong,
    Io(io::Error),
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            self.failure = Some(Failure::TooLong);
            return Err(io::Error::other("more bytes than the blob has"));
        }
        if let Err(error) = self.out.write_all(bytes) {
            let copy = io::Error::new(error.kind(), error.to_string());
            self.failure = Some(Failure::Io(error));
            return Err(copy);
        }
        self.left -= bytes.len() as u64;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Every folder beneath one node, checked and at hand.
pub(super) struct Plan {
    encoded: File,
    offsets: HashMap<Digest, u64>,
    /// What is to be written, each path counted.
    pub(super) counts: Counts,
}

/// What one distinct folder holds directly.
struct Summary {
    folders: Vec<Digest>,
    files: u64,
    symlinks: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    counts: Counts,
    height: usize,
}

impl Plan {
    /// Fetches all folders beneath `node`; `folder` is where the file system has room for them for a while.
    pub(super) fn new(fetch: &dyn Fetch, node: &Node, folder: &Path, max_entries: u64) -> Result<Plan, RestoreError> {
        let encoded = tempfile::tempfile_in(folder).map_err(|source| RestoreError::io(folder, source))?;
        let mut plan = Plan { encoded, offsets: HashMap::new(), counts: Counts::default() };
        plan.counts = match node {
            Node::File { digest, .. } => Counts { files: 1, bytes: digest.size, ..Counts::default() },
            Node::Symlink { .. } => Counts { symlinks: 1, ..Counts::default() },
            Node::Directory { digest } => {
                let summaries = plan.fetch_all(fetch, *digest, max_entries)?;
                sum(&summaries, &mut HashMap::new(), *digest, 0)?.counts
            }
        };
        let Counts { files, directories, symlinks, .. } = plan.counts;
        if files.saturating_add(directories).saturating_add(symlinks) > max_entries {
            return Err(RestoreError::TooMany { max_entries });
        }
        Ok(plan)
    }

    /// One folder of those fetched.
    pub(super) fn tree(&self, digest: &Digest) -> Result<Tree, RestoreError> {
        let offset = *self.offsets.get(digest).ok_or(RestoreError::Missing { digest: *digest })?;
        let mut bytes = vec![0; digest.size as usize];
        self.encoded.read_exact_at(&mut bytes, offset).map_err(|source| RestoreError::Write { source })?;
        decode(digest, &bytes.into())
    }

    /// Level by level, so that the folders of one level share exchanges.
    fn fetch_all(
        &mut self,
        fetch: &dyn Fetch,
        root: Digest,
        max_entries: u64,
    ) -> Result<HashMap<Digest, Summary>, RestoreError> {
        let mut summaries = HashMap::new();
        let (mut level, mut end, mut entries) = (vec![root], 0, 0);
        for _ in 0..=MAX_DEPTH {
            let mut next = Vec::new();
            let mut found = |digest: &Digest, bytes: &[u8]| {
                let tree = decode(digest, &Bytes::copy_from_slice(bytes))?;
                entries += tree.len() as u64;
                if entries > max_entries {
                    return Err(RestoreError::TooMany { max_entries });
                }
                self.encoded.write_all_at(bytes, end).map_err(|source| RestoreError::Write { source })?;
                self.offsets.insert(*digest, end);
                end += bytes.len() as u64;
                let summary = summarise(&tree);
                next.extend_from_slice(&summary.folders);
                summaries.insert(*digest, summary);
                Ok(())
            };
            let (small, large): (Vec<Digest>, Vec<Digest>) = level.iter().partition(|tree| tree.size <= SMALL_BLOB);
            for wants in batches(&small) {
                fetch_small(fetch, wants, |index, bytes| found(&wants[index], bytes))?;
            }
            for want in &large {
                if want.size > MAX_ENCODED {
                    return Err(RestoreError::Corrupt { digest: *want });
                }
                let mut bytes = Vec::new();
                fetch_large(fetch, want, &mut bytes)?;
                found(want, &bytes)?;
            }
            next.sort_unstable();
            next.dedup();
            next.retain(|digest| !summaries.contains_key(digest));
            if next.is_empty() {
                return Ok(summaries);
            }
            level = next;
        }
        Err(RestoreError::TooDeep)
    }
}

/// Cuts a list into what may be fetched together.
fn batches(mut digests: &[Digest]) -> impl Iterator<Item = &[Digest]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |digest: &&Digest| {
            bytes += digest.size;
            bytes <= BATCH_BYTES
        };
        let count = digests.iter().take(BATCH_COUNT).take_while(fits).count();
        let (batch, rest) = digests.split_at(count);
        digests = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

fn decode(digest: &Digest, bytes: &Bytes) -> Result<Tree, RestoreError> {
    Tree::decode(bytes).map_err(|source| RestoreError::Tree { digest: *digest, source })
}

fn summarise(tree: &Tree) -> Summary {
    let mut summary = Summary { folders: Vec::new(), files: 0, symlinks: 0, bytes: 0 };
    for (_, node) in tree.iter() {
        match node {
            Node::File { digest, .. } => {
                summary.files += 1;
                summary.bytes = summary.bytes.saturating_add(digest.size);
            }
            Node::Symlink { .. } => summary.symlinks += 1,
            Node::Directory { digest } => summary.folders.push(*digest),
        }
    }
    summary
}

/// Sums over all paths beneath one folder, each distinct one worked out once; sums stop at the largest number.
fn sum(
    summaries: &HashMap<Digest, Summary>,
    known: &mut HashMap<Digest, Sum>,
    digest: Digest,
    depth: usize,
) -> Result<Sum, RestoreError> {
    if let Some(sum) = known.get(&digest) {
        return if depth + sum.height > MAX_DEPTH { Err(RestoreError::TooDeep) } else { Ok(*sum) };
    }
    if depth > MAX_DEPTH {
        return Err(RestoreError::TooDeep);
    }
    let summary = summaries.get(&digest).ok_or(RestoreError::Missing { digest })?;
    let Summary { files, symlinks, bytes, .. } = *summary;
    let mut total = Sum { counts: Counts { files, directories: 1, symlinks, bytes }, height: 0 };
    for folder in &summary.folders {
        let inner = sum(summaries, known, *folder, depth + 1)?;
        let counts = &mut total.counts;
        counts.files = counts.files.saturating_add(inner.counts.files);
        counts.directories = counts.directories.saturating_add(inner.counts.directories);
        counts.symlinks = counts.symlinks.saturating_add(inner.counts.symlinks);
        counts.bytes = counts.bytes.saturating_add(inner.counts.bytes);
        total.height = total.height.max(inner.height + 1);
    }
    known.insert(digest, total);
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Lends a file with these bytes, and streams the right ones.
    struct Lender {
        lent: Vec<u8>,
        right: Vec<u8>,
    }

    impl Fetch for Lender {
        fn small(&self, _: &[Digest], _: &mut dyn FnMut(usize, &[u8]) -> ControlFlow<()>) -> Result<(), FetchError> {
            Err("nothing small is asked for".into())
        }

        fn lent(&self, _: &Digest) -> Result<Option<File>, FetchError> {
            let mut file = tempfile::tempfile()?;
            file.write_all(&self.lent)?;
            Ok(Some(file))
        }

        fn large(&self, _: &Digest, out: &mut dyn Write) -> Result<(), FetchError> {
            Ok(out.write_all(&self.right)?)
        }
    }

    #[test]
    fn a_lent_file_that_is_wrong_is_fetched_instead() {
        let right = vec![7; 3_000_000];
        let mut flipped = right.clone();
        flipped[2_999_999] ^= 1;
        let longer = [&right[..], b"?"].concat();
        for lent in [right.clone(), flipped, longer, right[..2_500_000].to_vec(), Vec::new()] {
            let lender = Lender { lent, right: right.clone() };
            let mut out = tempfile::tempfile().expect("a file");
            fetch_file(&lender, &Digest::of(&right), &mut out).expect("fetched");
            let mut found = Vec::new();
            std::io::Seek::rewind(&mut out).expect("rewound");
            out.read_to_end(&mut found).expect("read");
            assert!(found == right);
        }
    }
}
