//! A file system of its own on a loop device, to be filled, cut off or compared with. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; unmounted, and its loop device detached, when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
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
        let disk = LoopDisk { image, mounted };
        disk.attach();
        disk
    }

    fn attach(&self) {
        run(Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.mounted]));
    }

    /// Cuts its power: from now on nothing reaches the disk any more, neither data nor the log of the file system, and every call fails.
    pub fn cut(&self) {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.mounted));
    }

    /// Mounts it anew, with what is on the disk. Nobody may have a file of it open.
    pub fn restore_power(&self) {
        run(Command::new("umount").arg(&self.mounted));
        self.attach();
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
