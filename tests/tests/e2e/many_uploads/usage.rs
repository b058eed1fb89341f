//! What a daemon uses while nobody asks for anything.

use std::fmt;

use provender_tests::child::eventually;

use crate::world::World;

/// Memory and descriptors.
#[derive(Clone, Copy)]
pub(super) struct Usage {
    /// Resident, in bytes.
    pub(super) memory: u64,
    /// Open, but for files of RocksDB, which has more the more there is, up to a limit of its own.
    pub(super) descriptors: usize,
}

impl Usage {
    /// Once all connections are gone and no blob is open.
    pub(super) fn at_rest(world: &World) -> Usage {
        let pid = world.daemon.pid().as_raw_nonzero();
        let open = || {
            let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            let links = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
            links.map(|link| link.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let blobs = world.data().join("blobs").display().to_string();
        eventually("no blob is open", || open().iter().all(|link| !link.starts_with(&blobs)));
        let rows = world.data().join("meta").display().to_string();
        let count = || open().iter().filter(|link| !link.starts_with(&rows)).count();
        // Whoever is gone is noticed before long: two socket pairs, the listeners and what is the runtime's remain.
        eventually("connections are closed", || count() < 40);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
        Usage { memory: kib << 10, descriptors: count() }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} MiB and {} descriptors", self.memory >> 20, self.descriptors)
    }
}
