//! What the mounted view costs: the same reads from it, from it without passthrough, from a file system on the same library that does nothing, and
//! from the host's.
//!
//! All four show the same names and sizes. They take turns, each first with all that the kernel caches dropped, then once more; who
//! is first changes from round to round. It takes root, for the mounts and for dropping caches, and fio.

mod nothing;
mod read;
mod wide;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use provender_benches::noise;
use provender_client::files::HashCache;
use provender_client::put;
use provender_core::execution::Executor;
use provender_core::name::Name;

pub(crate) use self::nothing::serve;
use self::nothing::{FOLDER, LARGE, MANY, MILLION, SMALL, SMALL_SIZE};
pub(crate) use self::wide::measure as measure_wide;
use crate::{Result, table};
use provender_benches::serve::Server;

/// The argument that makes this program the file system that does nothing.
pub(crate) const COMMAND: &str = "serve-nothing";
const READY: &str = "ready";
const ROUNDS: usize = 5;
/// Of what comes from the disk, whose rate is not the same from one moment to the next.
const MORE_ROUNDS: usize = 11;

/// What reads are compared with, and the rest.
const HOST: &str = "host";
const NOTHING: &str = "does nothing";
const PLAIN: &str = "without passthrough";

/// One of those that show the files.
struct Contestant {
    name: &'static str,
    folder: PathBuf,
    /// Whether a name is a success that was put in, or just a name.
    named: bool,
    _server: Option<Server>,
    /// Ends before the folder is looked at.
    _mounted: Mounted,
}

impl Contestant {
    /// Where something of the host's tree is found here.
    fn at(&self, what: &str) -> Result<PathBuf> {
        if !self.named {
            return Ok(self.folder.join(what));
        }
        let out = std::fs::canonicalize(self.folder.join("tasks").join(what).join("latest/out"))?;
        Ok(if what == LARGE { out.join(what) } else { out })
    }
}

/// A process that mounts, or none, and where; nothing stays mounted behind it.
struct Mounted(Option<Child>, Option<PathBuf>);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            drop(child.stdin.take());
            _ = child.wait();
        }
        if let Some(point) = &self.1 {
            // The daemon that mounted it may be about to end.
            _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Measures the budgets.
pub(crate) async fn measure() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("the mount: not measured, for it takes root to drop what the kernel caches");
        return Ok(());
    }
    if Command::new("fio").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("the mount: not measured, for it takes fio, which scripts/setup.sh test installs");
        return Ok(());
    }
    let here = std::env::current_dir()?;
    let host = here.join("files");
    make(&host)?;
    let mut contestants = vec![daemon("", "mounted", &host).await?];
    contestants.push(daemon("mount_passthrough = false\n", PLAIN, &host).await?);
    contestants.push(nothing(&here)?);
    contestants.push(Contestant {
        name: HOST,
        folder: host,
        named: false,
        _server: None,
        _mounted: Mounted(None, None),
    });

    let (large, fast) = (1024.0 * 1024.0, Some(0.95));
    let budgets = [
        ("1 GiB in sequence", LARGE, "MiB/s", HOST, fast),
        ("1 GiB as memory", LARGE, "MiB/s", HOST, fast),
        ("4 KiB anywhere, 1 at once", LARGE, "/s", HOST, None),
        ("4 KiB anywhere, 16 at once", LARGE, "/s", HOST, None),
        ("open, read, close: 20,000 of 2.6 KiB", SMALL, "/s", NOTHING, Some(1.0 / 1.3)),
        ("find, 100,000 entries", MANY, "/s", NOTHING, None),
        ("ls -f, 1,000,000 entries", MILLION, "/s", NOTHING, None),
    ];
    for (n, (what, name, unit, limit, budget)) in budgets.into_iter().enumerate() {
        let paths = contestants.iter().map(|one| one.at(name)).collect::<Result<Vec<_>>>()?;
        // By contestant, what was measured in each round: with nothing cached, and after that.
        let mut rates = vec![[Vec::new(), Vec::new()]; paths.len()];
        for round in 0..if n < 2 { MORE_ROUNDS } else { ROUNDS } {
            for turn in 0..paths.len() {
                let who = (turn + round) % paths.len();
                drop_caches()?;
                for measured in &mut rates[who] {
                    measured.push(match n {
                        0 => read::in_sequence(&paths[who])? / large,
                        1 => read::as_memory(&paths[who])? / large,
                        2 => read::anywhere(&paths[who], 1)?,
                        3 => read::anywhere(&paths[who], 16)?,
                        4 => read::each(&paths[who], nothing::SMALL_FOLDERS, FOLDER)?,
                        5 => read::found(&paths[who])?,
                        _ => read::listed(&paths[who])?,
                    });
                    if n == 2 || n == 3 {
                        // From now on nothing is to be fetched.
                        read::in_sequence(&paths[who])?;
                    }
                }
            }
        }
        for (warm, called) in [(0, "cold"), (1, "warm")] {
            let mut others: Vec<_> =
                contestants.iter().zip(&rates).skip(1).map(|(one, rates)| (one.name, rates[warm].clone())).collect();
            others.sort_by_key(|(name, _)| *name != limit);
            table::print_beside(&format!("{what}, {called}"), unit, &rates[0][warm], &others, budget);
        }
    }
    let large = contestants[0].at(LARGE)?;
    let mut taken = Vec::new();
    for _ in 0..ROUNDS {
        drop_caches()?;
        let before = cached()?;
        read::in_sequence(&large)?;
        taken.push(cached()? - before);
    }
    // Twice as much where the daemon has read it as well.
    table::print_bound("page cache that a read of 1 GiB takes", &taken, "MiB", 1.1 * 1024.0);
    Ok(())
}

/// What the kernel keeps of all files, in mebibytes.
fn cached() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Cached:"));
    let kibibytes: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    Ok(kibibytes.ok_or("no `Cached` in /proc/meminfo")? / 1024.0)
}

/// Makes the files that all show, on the host.
fn make(at: &Path) -> Result<()> {
    std::fs::create_dir_all(at.join(SMALL))?;
    let body = noise(7, nothing::PERIOD);
    let mut large = std::fs::File::create(at.join(LARGE))?;
    for _ in 0..nothing::LARGE_SIZE / nothing::PERIOD as u64 {
        large.write_all(&body)?;
    }
    for (folders, name, size) in [(nothing::SMALL_FOLDERS, SMALL, SMALL_SIZE), (nothing::MANY_FOLDERS, MANY, 0)] {
        for folder in 0..folders {
            let folder_at = at.join(name).join(folder.to_string());
            std::fs::create_dir_all(&folder_at)?;
            for n in 0..FOLDER {
                std::fs::write(folder_at.join(n.to_string()), noise(folder * FOLDER + n, size))?;
            }
        }
    }
    make_million(&at.join(MILLION))?;
    rustix::fs::sync();
    Ok(())
}

/// Makes a folder of 1,000,000 empty files.
fn make_million(at: &Path) -> Result<()> {
    std::fs::create_dir(at)?;
    for n in 0..nothing::MILLION_COUNT {
        std::fs::File::create(at.join(n.to_string()))?;
    }
    Ok(())
}

/// A daemon of its own that has taken all of it in, and shows it.
async fn daemon(config: &str, name: &'static str, files: &Path) -> Result<Contestant> {
    let dir = format!("mount{}", config.len());
    let point = std::env::current_dir()?.join(format!("{dir}-view"));
    let server = Server::configured(&dir, &format!("mount = {:?}\n{config}", point.display().to_string())).await?;
    let mounted = Mounted(None, Some(point.clone()));
    for what in [LARGE, SMALL, MANY, MILLION] {
        let (executor, cache) = (Executor::default(), Arc::new(HashCache::disabled()));
        put::put(&server.client, &files.join(what), Some(&Name::new(what)?), &executor, cache, &|_| {}).await?;
    }
    Ok(Contestant { name, folder: point, named: true, _server: Some(server), _mounted: mounted })
}

/// The file system that does nothing, in a process of its own.
fn nothing(here: &Path) -> Result<Contestant> {
    let point = here.join("nothing");
    std::fs::create_dir(&point)?;
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.arg(COMMAND).arg(&point).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let mounted = Mounted(Some(child), Some(point.clone()));
    if line.trim() != READY {
        return Err("the file system that does nothing did not start".into());
    }
    Ok(Contestant { name: NOTHING, folder: point, named: false, _server: None, _mounted: mounted })
}

/// Says that it serves, and waits until it need not any more.
fn until_let_go() -> Result<()> {
    println!("{READY}");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "3")?)
}
