//! The view against its model: anything that can happen, in any order.

use std::collections::{BTreeMap, HashMap};

use provender_core::view::encode;

use super::model::{End, Model, Paths, Read, Shown};
use super::steps::{Op, op};
use super::*;

type Checked = Result<(), TestCaseError>;

fn readable(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

struct Machine {
    source: Arc<MemorySource>,
    model: Model,
    paths: Paths,
    view: View,
    /// A number for each lookup that has not been given back.
    lookups: Vec<u64>,
    listings: Vec<(u64, Vec<(Item, u64)>)>,
    files: Vec<(u64, Bytes)>,
    /// The number that a path had, whichever view gave it.
    numbers: HashMap<Vec<u8>, u64>,
}

impl Machine {
    fn new() -> Machine {
        let source = Arc::new(MemorySource::new());
        let (model, view) = (Model::default(), view(&source));
        let paths = model.paths(&source);
        let (lookups, listings, files, numbers) = Default::default();
        Machine { source, model, paths, view, lookups, listings, files, numbers }
    }

    /// A path that is there, of those that `is` is said of; `None` if there is none.
    fn pick(&self, which: usize, is: impl Fn(&Shown) -> bool) -> Option<Vec<u8>> {
        let all: Vec<&Vec<u8>> = self.paths.iter().filter(|(_, spot)| is(&spot.shown)).map(|(path, _)| path).collect();
        all.get(which % all.len().max(1)).map(|path| (*path).clone())
    }

    /// Follows a path from the root; each lookup is held.
    fn find(&mut self, path: &[u8]) -> Result<Attributes, ViewError> {
        let mut at = self.view.attributes(ROOT)?.attributes;
        for part in path.split(|byte| *byte == b'/').skip(1) {
            at = self.view.lookup(at.number, part)?.attributes;
            self.lookups.push(at.number);
        }
        Ok(at)
    }

    /// The path shows what it should, or nothing.
    fn check(&mut self, path: &[u8]) -> Checked {
        let found = self.find(path);
        let Some(spot) = self.paths.get(path) else {
            let gone = matches!(found, Err(ViewError::NotFound | ViewError::NotDirectory | ViewError::LongName));
            prop_assert!(gone, "{}: {found:?}", readable(path));
            return Ok(());
        };
        let Ok(found) = found else { return Err(TestCaseError::fail(format!("{}: {found:?}", readable(path)))) };
        let (kind, size, mode) = match &spot.shown {
            Shown::Directory => (Kind::Directory, 0, 0o555),
            Shown::File(bytes, executable) => (Kind::File, bytes.len(), if *executable { 0o555 } else { 0o444 }),
            Shown::Link(target) => (Kind::Link, target.len(), 0o777),
            Shown::Raw(target) => (Kind::Link, target.len(), 0o777),
        };
        let expected = Attributes { number: found.number, kind, size: size as u64, mode, at: spot.at };
        prop_assert_eq!(found, expected, "{}", readable(path));
        prop_assert_eq!(self.view.attributes(found.number).map(|found| found.attributes).ok(), Some(found));
        // What an input is may change, and where a link leads, and its number with it; all else is the same wherever and whenever
        // it is mounted.
        if kind != Kind::Link && !path.windows(8).any(|part| part == b"/inputs/") {
            let number = *self.numbers.entry(path.into()).or_insert(found.number);
            prop_assert_eq!(number, found.number, "{}", readable(path));
        }
        Ok(())
    }

    /// The items of an open directory from a cookie on, at most `room`.
    fn items(&self, handle: u64, cookie: u64, room: usize) -> Result<Vec<(Item, u64)>, ViewError> {
        let mut items = Vec::new();
        self.view.list(handle, cookie, |item, next| {
            let fits = items.len() < room;
            if fits {
                items.push((item.clone(), next));
            }
            fits
        })?;
        Ok(items)
    }

    fn list(&mut self, path: &[u8], room: usize) -> Checked {
        let number = self.find(path).expect("there").number;
        let listed = list(&self.view, number, room).into_iter();
        let mut listed: Vec<(String, Kind)> = listed.map(|(item, _)| (readable(&item.name), item.kind)).collect();
        let below = [path, b"/"].concat();
        let names = self.paths.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below));
        let kind = |shown: &Shown| match shown {
            Shown::Directory => Kind::Directory,
            Shown::File(..) => Kind::File,
            Shown::Link(_) | Shown::Raw(_) => Kind::Link,
        };
        let names = names.map(|(path, spot)| (&path[below.len()..], kind(&spot.shown)));
        let names = names.filter(|(name, _)| !name.contains(&b'/'));
        let dots = [&b"."[..], b".."].map(|dot| (dot, Kind::Directory));
        let all = dots.into_iter().chain(names);
        let mut expected: Vec<(String, Kind)> = all.map(|(name, kind)| (readable(name), kind)).collect();
        listed.sort_by(|(a, _), (b, _)| a.cmp(b));
        expected.sort_by(|(a, _), (b, _)| a.cmp(b));
        prop_assert_eq!(listed, expected, "{}", readable(path));
        Ok(())
    }

    fn read(&self, handle: u64, bytes: &Bytes, offset: u64, len: usize) -> Checked {
        let from = bytes.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let expected = bytes.slice(from..bytes.len().min(from.saturating_add(len)));
        prop_assert_eq!(self.view.read(handle, offset, len).ok(), Some(expected));
        Ok(())
    }

    /// A link has its target; one of the view's own leads to a directory.
    fn follow(&mut self, path: &[u8]) -> Checked {
        let number = self.find(path).expect("there").number;
        let found = self.view.read_link(number).expect("a link");
        let shown = self.paths[path].shown.clone();
        match shown {
            Shown::Raw(target) => prop_assert_eq!(found, target),
            Shown::Link(target) => {
                prop_assert_eq!(&found, target.as_bytes(), "{}", readable(path));
                let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
                parts.pop();
                for part in target.as_bytes().split(|byte| *byte == b'/') {
                    match part {
                        b".." => _ = parts.pop(),
                        part => parts.push(part),
                    }
                }
                let end = parts.join(&b"/"[..]);
                let leads = self.paths.get(&end).map(|spot| &spot.shown);
                prop_assert_eq!(leads, Some(&Shown::Directory), "{} -> {}", readable(path), target);
                self.check(&end)?;
            }
            _ => unreachable!("picked as a link"),
        }
        Ok(())
    }

    fn xattrs(&mut self, path: &[u8]) -> Checked {
        let number = self.find(path).expect("there").number;
        let expected = self.paths[path].xattrs.clone();
        let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
        prop_assert_eq!(self.view.xattrs(number).expect("known"), names, "{}", readable(path));
        for (name, value) in expected {
            prop_assert_eq!(self.view.xattr(number, name.as_bytes()).ok(), Some(value));
        }
        for other in ["user.provender", "security.capability", ""] {
            prop_assert!(matches!(self.view.xattr(number, other.as_bytes()), Err(ViewError::NoAttribute)));
        }
        Ok(())
    }

    fn forget(&mut self, number: u64, lookups: usize) {
        self.view.forget(number, lookups as u64);
        let mut left = lookups;
        self.lookups.retain(|held| {
            let goes = *held == number && left > 0;
            left -= usize::from(goes);
            !goes
        });
    }

    /// Reads on in an open directory: what was read before is not read again.
    fn more(&mut self, which: usize, room: usize) -> Checked {
        let open = self.listings.len();
        let Some((handle, seen)) = self.listings.get(which % open.max(1)) else { return Ok(()) };
        let cookie = seen.last().map_or(0, |(_, next)| *next);
        let items = match self.items(*handle, cookie, room) {
            Ok(items) => items,
            // What the success read is not known any more once it is collected.
            Err(ViewError::Source(SourceError::Stale)) => Vec::new(),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let old = |item: &(Item, u64)| seen.iter().any(|(seen, next)| seen.name == item.0.name || *next == item.1);
        prop_assert!(!items.iter().any(old), "{items:?} after {seen:?}");
        self.listings[which % open].1.extend(items);
        Ok(())
    }

    fn step(&mut self, op: Op) -> Checked {
        let is_directory = |shown: &Shown| *shown == Shown::Directory;
        let is_file = |shown: &Shown| matches!(shown, Shown::File(..));
        let is_link = |shown: &Shown| matches!(shown, Shown::Link(_) | Shown::Raw(_));
        match op {
            Op::Commit(end) => self.model.end(&self.source, &end, true),
            Op::Fail(end) => self.model.end(&self.source, &end, false),
            Op::Hit(name, key) => self.model.hit(&self.source, &name, &key),
            Op::Invalidate(key) => self.model.invalidate(&self.source, &key),
            Op::Collect(which) => self.model.collect(&self.source, which),
            Op::Find(which) => {
                let path = self.pick(which, |_| true).expect("the root");
                return self.check(&path);
            }
            Op::Miss(which, end) => {
                let path = self.pick(which, |_| true).expect("the root");
                let beside = [&path[..], &end].concat();
                // Below what is no directory there is nothing; the kernel never asks for dots or nothing.
                let asked = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
                if beside.first() == Some(&b'/') && beside[1..].split(|byte| *byte == b'/').all(asked) {
                    return self.check(&beside);
                }
            }
            Op::List { path, room } => {
                let path = self.pick(path, is_directory).expect("the root");
                return self.list(&path, room);
            }
            Op::Read { path, offset, from_end, len } => {
                let Some(path) = self.pick(path, is_file) else { return Ok(()) };
                let Shown::File(bytes, _) = self.paths[&path].shown.clone() else { unreachable!("a file") };
                let number = self.find(&path).expect("there").number;
                let handle = self.view.open(number).expect("a file");
                let offset = if from_end { (bytes.len() as u64).wrapping_sub(offset % 3) } else { offset };
                self.read(handle, &bytes, offset, len)?;
                self.read(handle, &bytes, 0, usize::MAX)?;
                self.view.release(handle);
            }
            Op::Follow(which) => {
                let Some(path) = self.pick(which, is_link) else { return Ok(()) };
                return self.follow(&path);
            }
            Op::Xattrs(which) => {
                let path = self.pick(which, |_| true).expect("the root");
                return self.xattrs(&path);
            }
            Op::Forget { which, all } => {
                let Some(number) = self.lookups.get(which % self.lookups.len().max(1)).copied() else { return Ok(()) };
                let held = self.lookups.iter().filter(|held| **held == number).count();
                self.forget(number, if all { held } else { 1 });
                let known = self.view.inodes.get(number).is_some();
                prop_assert_eq!(known, self.lookups.contains(&number));
            }
            Op::Open(which) => {
                let path = self.pick(which, is_directory).expect("the root");
                let number = self.find(&path).expect("there").number;
                self.listings.push((self.view.open_directory(number).expect("a directory"), Vec::new()));
            }
            Op::More { which, room } => return self.more(which, room),
            Op::Again { which, from } => {
                let Some((handle, seen)) = self.listings.get(which % self.listings.len().max(1)) else { return Ok(()) };
                let Some((_, cookie)) = seen.get(from % seen.len().max(1)) else { return Ok(()) };
                let rest = &seen[from % seen.len() + 1..];
                prop_assert_eq!(&self.items(*handle, *cookie, rest.len()).expect("read before")[..], rest);
            }
            Op::Hold(which) => {
                let Some(path) = self.pick(which, is_file) else { return Ok(()) };
                let Shown::File(bytes, _) = self.paths[&path].shown.clone() else { unreachable!("a file") };
                let number = self.find(&path).expect("there").number;
                self.files.push((self.view.open(number).expect("a file"), bytes));
            }
            Op::Held { which, offset, len } => {
                let Some((handle, bytes)) = self.files.get(which % self.files.len().max(1)) else { return Ok(()) };
                return self.read(*handle, bytes, offset, len);
            }
            Op::Remount => {
                self.view = view(&self.source);
                self.lookups.clear();
                self.listings.clear();
                self.files.clear();
            }
        }
        self.paths = self.model.paths(&self.source);
        Ok(())
    }

    /// Looks at everything, then gives everything back.
    fn finish(mut self) -> Checked {
        for (path, spot) in self.paths.clone() {
            self.check(&path)?;
            self.xattrs(&path)?;
            match spot.shown {
                Shown::Directory => self.list(&path, 3)?,
                Shown::Link(_) | Shown::Raw(_) => self.follow(&path)?,
                Shown::File(bytes, _) => {
                    let number = self.find(&path).expect("there").number;
                    let handle = self.view.open(number).expect("a file");
                    self.read(handle, &bytes, 0, bytes.len() + 1)?;
                    self.view.release(handle);
                }
            }
        }
        let (listings, files) = (self.listings.drain(..), self.files.drain(..));
        for handle in listings.map(|(handle, _)| handle).chain(files.map(|(handle, _)| handle)) {
            self.view.release(handle);
        }
        while let Some(number) = self.lookups.last().copied() {
            self.forget(number, 1);
        }
        prop_assert_eq!((self.view.inodes.len(), self.view.handles.len()), (0, 0));
        Ok(())
    }
}

proptest! {
    #[test]
    fn shows_what_the_model_shows(ops in prop::collection::vec(op(), 0..40)) {
        let mut machine = Machine::new();
        for op in ops {
            machine.step(op)?;
        }
        machine.finish()?;
    }
}

/// So that each kind of place is met by some case, and none is checked by nothing.
#[test]
fn the_model_knows_what_the_documentation_says() {
    let (source, mut model) = (MemorySource::new(), Model::default());
    let key = |id: &str| TaskKey::new("run", id).expect("valid");
    let read = |id: &str| Read { key: Some(key(id)), content: None, held: false };
    let at = Timestamp::from_millis(1_795_284_131_042);
    let made = End {
        name: name("zstd/lib"),
        key: key("566a13d4"),
        at,
        files: Some(BTreeMap::new()),
        stdout: None,
        inputs: BTreeMap::new(),
    };
    model.end(&source, &made, true);
    let inputs = BTreeMap::from([(b"lib".to_vec(), read("566a13d4")), (b"gone".to_vec(), read("unknown"))]);
    let uses = End { name: name("app"), key: key("c0ffee00"), inputs, ..made.clone() };
    model.end(&source, &uses, true);
    model.end(&source, &End { key: key("c0ffee01"), ..uses }, false);
    model.hit(&source, &name("alias"), &key("566a13d4"));
    let paths = model.paths(&source);
    let (lib, app) = ("2026-11-21T18-02-11Z-566a13d4", "2026-11-21T18-02-11Z-c0ffee00");
    let link = |path: String| match paths.get(path.as_bytes()).map(|spot| &spot.shown) {
        Some(Shown::Link(target)) => target.clone(),
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(link(format!("/tasks/app/{app}/inputs/lib")), format!("../../../zstd/lib/{lib}"));
    assert_eq!(link(format!("/tasks/zstd/lib/{lib}/used-by/app@{app}")), format!("../../../../app/{app}"));
    assert_eq!(link(format!("/tasks/alias/{lib}/used-by/app@{app}")), format!("../../../app/{app}"));
    assert_eq!(link("/keys/run/566a13d4".into()), format!("../../tasks/zstd/lib/{lib}"));
    assert_eq!(link("/tasks/alias/latest".into()), lib);
    assert!(paths.contains_key(format!("/tasks/app/{app}/inputs/gone.json").as_bytes()));
    let failed = paths.keys().filter(|path| path.starts_with(b"/failed/app/")).count();
    assert_eq!(failed, 3, "a folder, record.json and spec.json");
    assert_eq!(encode("out"), "%6Fut");
}
