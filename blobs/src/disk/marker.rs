//! The marker: the file that makes a folder a store.
//!
//! Owns its text, and making a new store. Invariant: it is written once, after all else is in place, and never again;
//! of several processes that make a store in one folder at once, one wins and all see its id.

use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, linkat, unlinkat};
use rustix::io::Errno;

use super::root::{OBJECTS, Root, STAGING};
use crate::{BlobError, StoreId};

pub(super) const NAME: &str = "provender-blobs";
const LAYOUT: u32 = 1;
/// What a fresh file system may bring along.
const HARMLESS: &str = "lost+found";

/// The id of the store in `root`; `None` if it has no marker.
pub(super) fn read(dir: &Path, root: &Root) -> Result<Option<StoreId>, BlobError> {
    let store = || dir.display().to_string();
    let unreadable = |why: String| BlobError::Unavailable { store: store(), why: format!("its file {NAME:?} {why}") };
    let file = match root.file(NAME, OFlags::RDONLY, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(unreadable(format!("cannot be opened: {error}"))),
    };
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    let layout = text.strip_prefix("layout ").and_then(|rest| rest.split('\n').next()?.parse().ok());
    match layout {
        Some(LAYOUT) => {}
        Some(found) if found > LAYOUT => return Err(BlobError::Layout { store: store(), found, known: LAYOUT }),
        _ => return Err(unreadable("is damaged".into())),
    }
    let id = text.strip_prefix(&format!("layout {LAYOUT}\nstore ")).and_then(|rest| rest.strip_suffix('\n'));
    id.and_then(|id| id.parse().ok()).map(Some).ok_or_else(|| unreadable("is damaged".into()))
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
    if let Some(id) = read(dir, &root)? {
        return Ok(id);
    }
    if let Some(name) = foreign(dir).map_err(failed)? {
        let why = format!("its folder has no file {NAME:?}, but holds {name:?}; name an empty folder, or put it back");
        return Err(BlobError::Unavailable { store: dir.display().to_string(), why });
    }
    create(&root).map_err(failed)?;
    read(dir, &root)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// Something in `dir` that making a store would not have left there.
fn foreign(dir: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let holds_blobs = name == OBJECTS && fs::read_dir(dir.join(OBJECTS))?.next().is_some();
        let ours = [OBJECTS, STAGING, HARMLESS].contains(&name.as_str()) || name.starts_with(NAME);
        if !ours || holds_blobs {
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
    let id = StoreId::fresh()?;
    let draft = format!("{NAME}.{id}");
    let mut file = root.file(&draft, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, Mode::from_raw_mode(0o444))?;
    write!(file, "layout {LAYOUT}\nstore {id}\n")?;
    file.sync_all()?;
    let linked = linkat(root, &draft, root, NAME, AtFlags::empty());
    unlinkat(root, &draft, AtFlags::empty())?;
    match linked {
        // Another process was first: its marker counts.
        Ok(()) | Err(Errno::EXIST) => Ok(root.sync(".")?),
        Err(error) => Err(error.into()),
    }
}
