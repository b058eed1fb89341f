//! The marker: the file that makes a folder a store.
//!
//! Owns its text, and making a new store. Invariants: it is written after all else is in place, and again only when the layout
//! changes; of several processes that make a store in one folder at once, one wins and all see its id.

use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, linkat, renameat, unlinkat};
use rustix::io::Errno;

use super::layout;
use super::root::{OBJECTS, Root, STAGING};
use crate::{BlobError, StoreId};

pub(super) const NAME: &str = "provender-blobs";
/// 1 had two levels of folders.
pub(super) const LAYOUT: u32 = 2;
/// What a fresh file system may bring along.
const HARMLESS: &str = "lost+found";

/// What a marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) id: StoreId,
    /// The layout that it comes from, if not all is in its place yet.
    pub(super) from: Option<u32>,
}

impl Marker {
    fn text(&self) -> String {
        // An older version must not look for anything from the moment on in which things move.
        let from = self.from.map_or_else(String::new, |from| format!("from {from}\n"));
        format!("layout {LAYOUT}\nstore {}\n{from}", self.id)
    }

    /// Writes it in place of the one that is there.
    pub(super) fn replace(&self, root: &Root) -> io::Result<()> {
        let draft = self.draft(root)?;
        renameat(root, &draft, root, NAME)?;
        Ok(root.sync(".")?)
    }

    fn draft(&self, root: &Root) -> io::Result<String> {
        let draft = format!("{NAME}.{}", StoreId::fresh()?);
        let mut file = root.file(&draft, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, Mode::from_raw_mode(0o444))?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        Ok(draft)
    }
}

/// The marker in `root`; `None` if there is none.
pub(super) fn read(dir: &Path, root: &Root) -> Result<Option<Marker>, BlobError> {
    let store = || dir.display().to_string();
    let unreadable = |why: String| BlobError::Unavailable { store: store(), why: format!("its file {NAME:?} {why}") };
    let file = match root.file(NAME, OFlags::RDONLY, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(unreadable(format!("cannot be opened: {error}"))),
    };
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    parse(&text).map_err(|layout| match layout {
        Some(found) => BlobError::Layout { store: store(), found, known: LAYOUT },
        None => unreadable("is damaged".into()),
    })
}

/// Fails with the layout if that is newer.
fn parse(text: &str) -> Result<Option<Marker>, Option<u32>> {
    let mut lines = text.split('\n');
    let mut value = |name: &str| lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let layout = value("layout").and_then(|layout| layout.parse().ok()).filter(|layout| *layout > 0).ok_or(None)?;
    if layout > LAYOUT {
        return Err(Some(layout));
    }
    let id = value("store").and_then(|id| id.parse().ok()).ok_or(None)?;
    let from = if layout < LAYOUT { Some(layout) } else { value("from").and_then(|from| from.parse().ok()) };
    let marker = Marker { id, from };
    // All of it, so that one that is cut or has grown is none.
    let canonical = if layout < LAYOUT { format!("layout {layout}\nstore {id}\n") } else { marker.text() };
    if text == canonical { Ok(Some(marker)) } else { Err(None) }
}

/// The id of the store in `dir`; one is made if the folder is missing or holds nothing.
pub(super) fn open_or_create(dir: &Path) -> Result<StoreId, BlobError> {
    let failed = |error: io::Error| BlobError::io(dir.display(), "make a store", error);
    let missing: Vec<_> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    for parent in missing.iter().filter_map(|dir| dir.parent()) {
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    }
    let root = Root::unproven(dir).map_err(failed)?;
    if let Some(marker) = read(dir, &root)? {
        return layout::finish(dir, &root, marker).map(|()| marker.id);
    }
    if let Some(name) = foreign(dir).map_err(failed)? {
        let why = format!("its folder has no file {NAME:?}, but holds {name:?}; name an empty folder, or put it back");
        return Err(BlobError::Unavailable { store: dir.display().to_string(), why });
    }
    create(&root).map_err(failed)?;
    let made = read(dir, &root)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    Ok(made.id)
}

/// Something in `dir` that making a store would not have left there.
fn foreign(dir: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let ours = [OBJECTS, STAGING, HARMLESS].contains(&name.as_str()) || name.starts_with(NAME);
        if !ours || name == OBJECTS && layout::is_in_use(&dir.join(OBJECTS))? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn create(root: &Root) -> io::Result<()> {
    for name in [STAGING, OBJECTS] {
        match rustix::fs::mkdirat(root, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => root.sync(name)?,
            Err(error) => return Err(error.into()),
        }
    }
    layout::make_shards(root)?;
    let draft = Marker { id: StoreId::fresh()?, from: None }.draft(root)?;
    let linked = linkat(root, &draft, root, NAME, AtFlags::empty());
    unlinkat(root, &draft, AtFlags::empty())?;
    match linked {
        // Another process was first: its marker counts.
        Ok(()) | Err(Errno::EXIST) => Ok(root.sync(".")?),
        Err(error) => Err(error.into()),
    }
}
