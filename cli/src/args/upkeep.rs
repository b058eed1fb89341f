//! The arguments of upkeep.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use provender_core::Ref;

use super::reference;

#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Write a backup of the whole store into a folder of the daemon's machine, while it serves
    ///
    /// It holds the state of one moment, and writes only what the backups before it in that folder have not. `provenderd restore` makes a store out
    /// of it, on any metadata engine. If it is interrupted the backups before stay whole, and the next one goes on from there.
    Backup(Backup),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// Read all bytes, instead of looking at sizes and times of files
    #[arg(long)]
    pub(crate) deep: bool,
    /// Read so many bytes a second at most
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// The folder: empty, new, or with backups of this store
    pub(crate) dir: PathBuf,
    /// How many backups to keep in it, this one included [default: 7]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) keep: Option<u32>,
}

/// What is pinned.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Pinnable {
    /// A key: its record. A name: the records under exactly that name. blob:HEX or tree:HEX: these bytes, of a tree all that it refers to
    #[arg(value_name = "WHAT", value_parser = reference)]
    pub(crate) what: Option<Ref>,
    /// Instead, the records under the names at and below this one, in whole parts; an empty one means all names
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pin {
    #[command(flatten)]
    pub(crate) what: Pinnable,
    /// Why; it is shown with the pin
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// For how long, such as 90s, 15m, 12h, 7d or 4w [default: until it is unpinned]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(crate) time: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Unpin {
    #[command(flatten)]
    pub(crate) what: Pinnable,
    /// Whoever pinned it, instead of one's own pin alone
    #[arg(long)]
    pub(crate) any_owner: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Gc {
    /// Say what would go, and take nothing away
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// List so many executions at most; 0: only what it comes to [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) list: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Du {
    /// Only the names at and below this one, in whole parts [default: all]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// What the lines are: the next part of the names, who ran it and where, or how long ago it ended
    #[arg(long, value_enum, default_value = "name")]
    pub(crate) by: By,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum By {
    Name,
    Executor,
    Age,
}

/// How long, in one unit.
fn duration(text: &str) -> Result<Duration, String> {
    let unit = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400), ("w", 7 * 86_400)];
    let parsed = unit.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds).filter(|seconds| *seconds > 0)
    });
    parsed.map(Duration::from_secs).ok_or_else(|| "it takes a number from 1 with s, m, h, d or w, such as 12h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800), ("4w", 2_419_200)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "s", "0d", "7", "-1h", "1.5h", "1h30m", "1H", "99999999999999999w", "1 d", "ü"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
