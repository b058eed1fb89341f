//! From file to file without a detour through this process: extents that are shared where the file system can, else the kernel's
//! own copy.
//!
//! Invariant: the bytes end up in the target's own inode, so that no later write to the source shows there. Whoever needs to know what
//! they are hashes the target.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::copy_file_range;
use rustix::io::Errno;

/// How much is read at once where the kernel cannot copy, in bytes.
const PIECE: usize = 256 << 10;

/// Makes `to`, which is empty, share all bytes of `from` (a reflink: XFS, btrfs and others). `false` where that is not possible.
pub fn share(from: &File, to: &File) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => return Ok(true),
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => return Err(error.into()),
        // Another file system, one that cannot share, a file that is locked against it: whatever it is, a copy does.
        Err(_) => {}
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (from, to);
    Ok(false)
}

/// Copies the bytes from `offset` on, `len` of them, to the same place of `to`; fewer if `from` ends before. Says how many.
pub fn copy_range(from: &File, to: &File, offset: u64, len: u64) -> io::Result<u64> {
    let mut copied = 0;
    while copied < len {
        let (mut source, mut target) = (offset + copied, offset + copied);
        let left = usize::try_from(len - copied).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(from, Some(&mut source), to, Some(&mut target), left) {
            // Some kernels end so for files whose size they don't know, as in /proc; reading them tells.
            Ok(0) => return Ok(copied + read_range(from, to, offset + copied, len - copied)?),
            Ok(some) => copied += some as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::NOTSUP | Errno::PERM) => {
                return Ok(copied + read_range(from, to, offset + copied, len - copied)?);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(copied)
}

fn read_range(from: &File, to: &File, offset: u64, len: u64) -> io::Result<u64> {
    let mut piece = vec![0; PIECE.min(usize::try_from(len).unwrap_or(PIECE))];
    let mut copied = 0;
    while copied < len {
        let want = (len - copied).min(piece.len() as u64) as usize;
        match from.read_at(&mut piece[..want], offset + copied) {
            Ok(0) => break,
            Ok(read) => {
                to.write_all_at(&piece[..read], offset + copied)?;
                copied += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_copied_to_its_place_and_a_short_source_is_told() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let bytes: Vec<u8> = (0..700_000u32).map(|n| (n / 7) as u8).collect();
        from.write_all_at(&bytes, 0).unwrap();
        for copy in [copy_range, read_range] {
            to.set_len(0).unwrap();
            assert_eq!(copy(&from, &to, 300_000, 100_000).unwrap(), 100_000);
            assert_eq!(copy(&from, &to, 0, 300_000).unwrap(), 300_000);
            assert_eq!(copy(&from, &to, 400_000, 1 << 40).unwrap(), 300_000);
            let mut found = vec![0; 700_000];
            to.read_exact_at(&mut found, 0).unwrap();
            assert!(found == bytes);
            assert_eq!(copy(&from, &to, 700_000, 1).unwrap(), 0);
        }
    }
}
