//! A file system of its own on a loop device, to be filled, cut off or compared with. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; unmounted, and its loop device detached, when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    mounted: PathBuf,
}

impl LoopDisk {
    /// Makes a file system of so many bytes by this command (`mkfs.ext4`, `mkfs.xfs` with options), and mounts it in `dir`.
    pub fn mount(dir: &Path, size: u64, mkfs: &[&str]) -> LoopDisk {
        let (image, mounted) = (dir.join("image"), dir.join("mounted"));
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts a file system on a loop device: run it as root"
        );
        std::fs::File::create(&image).and_then(|file| file.set_len(size)).expect("an image");
        std::fs::create_dir(&mounted).expect("a mount point");
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg("-q").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &mounted]));
        LoopDisk { mounted }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// How many bytes are in use.
    pub fn used(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mounted).expect("a mounted file system");
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.mounted));
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
