//! The kernel's mount table, as `/proc/self/mountinfo` gives it (see proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{FILE_SYSTEM, MountError};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// `major:minor`, which no two FUSE file systems share while they live.
    pub(super) device: String,
    pub(super) point: PathBuf,
    /// The type, for example `ext4` or `fuse.provender`.
    pub(super) kind: String,
    pub(super) source: Vec<u8>,
}

impl Row {
    /// Whether it is, or was, served by a provender. The kernel adds the subtype to the type only if fusermount3 mounts.
    pub(super) fn is_provender(&self) -> bool {
        match self.kind.split_once('.') {
            Some(("fuse", subtype)) => subtype == FILE_SYSTEM,
            _ => self.kind == "fuse" && self.source == FILE_SYSTEM.as_bytes(),
        }
    }
}

/// The topmost mount at exactly this path: absolute, without symlinks.
pub(super) fn at(point: &Path) -> Result<Option<Row>, MountError> {
    let table = std::fs::read("/proc/self/mountinfo").map_err(|source| MountError::Table { source })?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse).rfind(|row| row.point == point))
}

/// Whether a provender's mount with this device number stands at a path, whatever lies over it.
pub(crate) fn stands(point: &Path, minor: u32) -> bool {
    let is_it = |row: &Row| {
        let device = row.device.split_once(':').map(|(_, minor)| minor);
        row.point == point && row.is_provender() && device == Some(&*minor.to_string())
    };
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    table.split(|byte| *byte == b'\n').filter_map(parse).any(|row| is_it(&row))
}

fn parse(line: &[u8]) -> Option<Row> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let point = fields.nth(1)?;
    // Optional fields end with a dash.
    fields.find(|field| *field == b"-")?;
    let kind = fields.next()?;
    Some(Row {
        device: String::from_utf8(device.into()).ok()?,
        point: OsString::from_vec(unescape(point)).into(),
        kind: String::from_utf8(kind.into()).ok()?,
        source: unescape(fields.next()?),
    })
}

/// Undoes `\040` and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |digits: &[u8; 3]| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        };
        match tail.split_first_chunk::<3>() {
            Some((digits, after)) if byte == b'\\' && octal(digits).is_some() => {
                out.extend(octal(digits));
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn reads_what_the_kernel_writes() {
        let row = |line: &str| parse(line.as_bytes());
        let ours =
            row(r"36 35 0:52 / /mnt/a\040b\134\303\274 ro,nosuid master:1 shared:7 - fuse provender ro,user_id=0");
        let ours = ours.expect("a row");
        assert_eq!(ours.point.as_os_str().as_bytes(), "/mnt/a b\\ü".as_bytes());
        assert_eq!((&*ours.device, ours.is_provender()), ("0:52", true));
        assert!(row("1 2 0:5 / /x rw - fuse.provender anything rw").expect("a row").is_provender());
        for foreign in ["fuse sshfs", "fuse.sshfs provender", "ext4 provender", "fuse.x.provender provender"] {
            assert!(!row(&format!("1 2 0:5 / /x rw - {foreign} rw")).expect("a row").is_provender(), "{foreign}");
        }
        for broken in ["", "1 2", "1 2 0:5 / /x rw fuse provender", "1 2 0:5 / /x rw - fuse"] {
            assert_eq!(row(broken), None);
        }
    }

    #[test]
    fn finds_what_is_mounted() {
        assert_eq!(at(Path::new("/proc")).expect("readable").expect("mounted").kind, "proc");
        assert_eq!(at(Path::new("/proc/self")).expect("readable"), None);
    }
}
