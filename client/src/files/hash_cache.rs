//! The hash cache: which digest a file had when it was last read, by its identity.
//!
//! Owns one file of a fixed shape, a hash table of 32,768 pages with 32 records each (a million entries; sparse, at most
//! 128 MiB, most often a few pages). A lookup reads one page, a store writes one record, so nothing is loaded, locked,
//! compacted or flushed, and any number of processes share it. Invariant: a record is believed only if its own BLAKE3 sum
//! holds and its whole identity is equal; torn, foreign or corrupt bytes cost a miss. No failure here fails a run.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use provender_core::digest::Digest;

use super::identity::Identity;

/// Magic and version: another form gets another one, and reads this one's records as misses.
const MAGIC: &[u8; 8] = b"prvhash1";
const RECORD: usize = 128;
const WAYS: usize = 32;
const PAGE: usize = WAYS * RECORD;
const PAGES: u64 = 1 << 15;
/// So many neighbouring inodes share a page: files made together are looked up together.
const NEIGHBOURS: u64 = 16;

/// A handle on the cache; without a file it remembers nothing.
#[derive(Debug)]
pub struct HashCache {
    file: Option<File>,
}

impl HashCache {
    /// Opens the cache file at `path`, making it and its folder as needed. If that fails the cache is off.
    pub fn open(path: &Path) -> HashCache {
        let open = || {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            // Nonblocking, so that a FIFO of that name cannot hold us; the check below then refuses it.
            let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.custom_flags(flags.bits() as i32).open(path)?;
            if !file.metadata()?.is_file() {
                return Err(std::io::Error::other("not a regular file"));
            }
            Ok(file)
        };
        let file = open().inspect_err(|error| tracing::debug!(path = %path.display(), %error, "no hash cache")).ok();
        HashCache { file }
    }

    /// A cache that remembers nothing.
    pub fn disabled() -> HashCache {
        HashCache { file: None }
    }

    /// The digest that a file of this identity had.
    pub(super) fn get(&self, identity: &Identity) -> Option<Digest> {
        let page = self.page(page_of(identity))?;
        let key = identity.to_bytes();
        let hash =
            page.chunks_exact(RECORD).find(|record| record[8..56] == key && is_whole(record))?[56..88].try_into();
        Some(Digest { hash: hash.ok()?, size: identity.size })
    }

    /// Remembers `digest`, in the place of what was known of the same inode, of nothing, or of the oldest in its page.
    ///
    /// The caller has made sure that the identity was settled when the hashing began.
    pub(super) fn put(&self, identity: &Identity, digest: &Digest, now: SystemTime) {
        let number = page_of(identity);
        let (Some(file), Some(page)) = (&self.file, self.page(number)) else { return };
        let key = identity.to_bytes();
        let rank = |record: &[u8]| match is_whole(record) {
            true if record[8..24] == key[..16] => (0, 0),
            false => (1, 0),
            true => (2, u64::from_le_bytes(record[88..96].try_into().unwrap_or_default())),
        };
        let oldest = page.chunks_exact(RECORD).enumerate().min_by_key(|(_, record)| rank(record));
        let way = oldest.map_or(0, |(way, _)| way) as u64;
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(MAGIC);
        record[8..56].copy_from_slice(&key);
        record[56..88].copy_from_slice(&digest.hash);
        record[88..96].copy_from_slice(&now.to_le_bytes());
        let sum = blake3::hash(&record[..96]);
        record[96..].copy_from_slice(sum.as_bytes());
        if let Err(error) = file.write_all_at(&record, number * PAGE as u64 + way * RECORD as u64) {
            tracing::debug!(%error, "the hash cache cannot be written");
        }
    }

    /// One page; what lies beyond the end of the file reads as zeros.
    fn page(&self, number: u64) -> Option<Box<[u8; PAGE]>> {
        let file = self.file.as_ref()?;
        let mut page = Box::new([0; PAGE]);
        let mut filled = 0;
        while filled < PAGE {
            match file.read_at(&mut page[filled..], number * PAGE as u64 + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Some(page)
    }
}

fn is_whole(record: &[u8]) -> bool {
    record[..8] == *MAGIC && *blake3::hash(&record[..96]).as_bytes() == record[96..]
}

fn page_of(identity: &Identity) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&identity.device.to_le_bytes()).update(&(identity.inode / NEIGHBOURS).to_le_bytes());
    let [a, b, ..] = *hasher.finalize().as_bytes();
    u64::from(u16::from_le_bytes([a, b])) % PAGES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64) -> Identity {
        Identity { device: 7, inode, size: 3, modified: (1, 2), changed: (3, 4) }
    }

    #[test]
    fn every_part_of_the_identity_counts() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HashCache::open(&folder.path().join("deep/er/cache"));
        let (known, digest) = (identity(1), Digest::of(b"abc"));
        cache.put(&known, &digest, UNIX_EPOCH);
        assert_eq!(cache.get(&known), Some(digest));
        let others = [
            Identity { device: 8, ..known },
            Identity { inode: 2, ..known },
            Identity { size: 4, ..known },
            Identity { modified: (1, 3), ..known },
            Identity { modified: (2, 2), ..known },
            Identity { changed: (3, 5), ..known },
            Identity { changed: (4, 4), ..known },
        ];
        for other in others {
            assert_eq!(cache.get(&other), None, "{other:?}");
        }
    }

    #[test]
    fn a_second_handle_sees_what_the_first_stored_and_an_inode_takes_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let (first, second) = (HashCache::open(&path), HashCache::open(&path));
        for size in 0..100 {
            first.put(&Identity { size, ..identity(1) }, &Digest { size, ..Digest::of(b"abc") }, UNIX_EPOCH);
            first.put(&identity(2), &Digest::of(b"xyz"), UNIX_EPOCH);
        }
        assert_eq!(second.get(&Identity { size: 98, ..identity(1) }), None, "replaced");
        assert!(second.get(&Identity { size: 99, ..identity(1) }).is_some());
        assert!(second.get(&identity(2)).is_some(), "not pushed out");
    }

    #[test]
    fn any_flipped_bit_is_a_miss() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let cache = HashCache::open(&path);
        cache.put(&identity(1), &Digest::of(b"abc"), UNIX_EPOCH);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let start = page_of(&identity(1)) * PAGE as u64;
        for at in 0..RECORD as u64 {
            let mut byte = [0];
            file.read_exact_at(&mut byte, start + at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], start + at).unwrap();
            assert_eq!(cache.get(&identity(1)), None, "byte {at}");
            file.write_all_at(&byte, start + at).unwrap();
        }
        assert_eq!(cache.get(&identity(1)), Some(Digest::of(b"abc")));
    }

    #[test]
    fn foreign_content_and_no_file_at_all_only_miss() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        std::fs::write(&path, vec![0xA5; 100_001]).unwrap();
        let cache = HashCache::open(&path);
        assert_eq!(cache.get(&identity(1)), None);
        cache.put(&identity(1), &Digest::of(b"abc"), UNIX_EPOCH);
        assert_eq!(cache.get(&identity(1)), Some(Digest::of(b"abc")));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(cache.get(&identity(1)), Some(Digest::of(b"abc")), "deleted while in use");

        let off = HashCache::open(&path.join("not/a/folder/\0"));
        off.put(&identity(1), &Digest::of(b"abc"), UNIX_EPOCH);
        assert_eq!(off.get(&identity(1)), None);
    }

    #[test]
    fn it_is_bounded_and_drops_rather_than_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let cache = HashCache::open(&path);
        for inode in 0..2_000 {
            cache.put(&identity(inode), &Digest::of(&inode.to_le_bytes()), UNIX_EPOCH);
        }
        let kept = (0..2_000).filter(|&inode| cache.get(&identity(inode)).is_some()).count();
        assert!(kept > 1_900, "{kept}");
        assert!(path.metadata().unwrap().len() <= PAGES * PAGE as u64);
    }
}
