//! Whatever is done to the folder, in whatever order: a reader gets the right bytes, or the error of the fetch.

use std::fs;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const SIZES: [u64; 4] = [GROUP + 1, 3 * GROUP, 5 * GROUP + 12_345, 7 * GROUP - 1];
/// Room for two of them or three.
const BUDGET: u64 = 16 * GROUP;

#[derive(Debug, Clone)]
enum Step {
    /// By one of two caches over one folder, of a part of a blob.
    Read {
        cache: usize,
        blob: usize,
        from: Index,
        len: Index,
    },
    /// All of it, and if it is a file then, that.
    ReadAll {
        cache: usize,
        blob: usize,
    },
    Break(bool),
    Lie(bool),
    /// Some file has a byte changed.
    Flip {
        file: Index,
        at: Index,
    },
    Cut {
        file: Index,
        to: Index,
    },
    Remove {
        file: Index,
    },
    RemoveAll,
    Tidy {
        cache: usize,
    },
    /// A process ends and another one comes.
    Reopen {
        cache: usize,
    },
    Fill {
        cache: usize,
        blob: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (cache, blob) = (0..2usize, 0..SIZES.len());
    let index = any::<Index>;
    prop_oneof![
        6 => (cache.clone(), blob.clone(), index(), index()).prop_map(|(cache, blob, from, len)| Step::Read { cache, blob, from, len }),
        4 => (cache.clone(), blob.clone()).prop_map(|(cache, blob)| Step::ReadAll { cache, blob }),
        1 => any::<bool>().prop_map(Step::Break),
        1 => any::<bool>().prop_map(Step::Lie),
        3 => (index(), index()).prop_map(|(file, at)| Step::Flip { file, at }),
        1 => (index(), index()).prop_map(|(file, to)| Step::Cut { file, to }),
        1 => index().prop_map(|file| Step::Remove { file }),
        1 => Just(Step::RemoveAll),
        1 => cache.clone().prop_map(|cache| Step::Tidy { cache }),
        2 => cache.clone().prop_map(|cache| Step::Reopen { cache }),
        1 => (cache, blob).prop_map(|(cache, blob)| Step::Fill { cache, blob }),
    ]
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<_> = below(dir.join("c/blobs")).flat_map(below).collect();
    all.sort();
    all
}

struct World {
    dir: TempDir,
    caches: [Cache; 2],
    origins: Vec<Arc<Origin>>,
    /// As long as a file is kept open, it must not be changed under its reader: so it is looked at, and closed.
    streams: Vec<Arc<Stream>>,
}

impl World {
    fn new() -> World {
        let dir = scratch();
        let caches = [open(dir.path(), BUDGET), open(dir.path(), BUDGET)];
        let origins = SIZES.iter().map(|size| Origin::new(*size, *size)).collect();
        World { dir, caches, origins, streams: Vec::new() }
    }

    fn may_fail(&self) -> bool {
        let state = self.origins[0].state.lock();
        state.broken || state.lying
    }

    fn read(&mut self, cache: usize, blob: usize, range: Range<u64>) {
        let origin = &self.origins[blob];
        let stream = origin.stream(&self.caches[cache]);
        match read(&stream, range.clone()) {
            Ok(found) => assert!(found == origin.bytes[range.start as usize..range.end as usize], "{range:?}"),
            Err(error) => assert!(self.may_fail(), "{error}"),
        }
        // Some readers stay.
        self.streams.push(stream);
        if self.streams.len() > 3 {
            self.streams.remove(0);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Read { cache, blob, from, len } => {
                let size = SIZES[blob];
                let from = from.index(size as usize) as u64;
                let len = len.index((size - from).min(3 * GROUP) as usize) as u64;
                self.read(cache, blob, from..from + len);
            }
            Step::ReadAll { cache, blob } => {
                self.read(cache, blob, 0..SIZES[blob]);
                if let Some(file) = self.caches[cache].file(&self.origins[blob].digest) {
                    assert!(read_file(&file) == self.origins[blob].bytes, "what is signed is right");
                }
                let bytes = self.caches[cache].bytes(&self.origins[blob].digest);
                assert!(bytes.is_none_or(|bytes| bytes == self.origins[blob].bytes));
            }
            Step::Break(broken) => self.origins.iter().for_each(|origin| origin.set(|state| state.broken = broken)),
            Step::Lie(lying) => self.origins.iter().for_each(|origin| origin.set(|state| state.lying = lying)),
            Step::Flip { file, at } => self.damage(file, |file, len| {
                let (at, mut byte) = (at.index(len as usize) as u64, [0]);
                file.read_exact_at(&mut byte, at)?;
                file.write_all_at(&[byte[0] ^ 1], at)
            }),
            Step::Cut { file, to } => self.damage(file, |file, len| file.set_len(to.index(len as usize) as u64)),
            Step::Remove { file } => {
                let all = files(self.dir.path());
                if !all.is_empty() {
                    _ = fs::remove_file(file.get(&all));
                }
            }
            Step::RemoveAll => _ = fs::remove_dir_all(self.dir.path().join("c")),
            Step::Tidy { cache } => self.caches[cache].tidy(),
            Step::Reopen { cache } => {
                self.streams.clear();
                self.caches[cache] = open(self.dir.path(), BUDGET);
            }
            Step::Fill { cache, blob } => {
                let filled = self.caches[cache].fill(&self.origins[blob].digest, &*self.origins[blob]);
                assert!(filled.is_ok() || self.may_fail());
            }
        }
    }

    /// By somebody else, while no signature is being taken: a change within the same tick of the kernel's clock could not be seen.
    fn damage(&self, file: Index, change: impl FnOnce(&File, u64) -> io::Result<()>) {
        let all = files(self.dir.path());
        if all.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
        let Ok(file) = File::options().read(true).write(true).open(file.get(&all)) else { return };
        let len = file.metadata().unwrap().len();
        if len > 0 {
            // It may be cut by a stream meanwhile.
            _ = change(&file, len);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn no_wrong_byte_is_ever_read(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
    }
}
