//! Configuration: flags over `PROVENDER_*` variables over a TOML file over defaults. Unknown keys are refused.

mod gc;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use provender_blobs::{BlobsConfig, HashFunction};
use serde::Deserialize;

use crate::meta::MetaConfig;
use crate::store::{Collection, Compression, Scrub};

use self::gc::GcFile;

/// What is logged unless it is said otherwise. What object_store tells of each request that it tries again is counted instead.
const LOG: &str = "info,object_store=warn";

/// The provender daemon: keeps the artifacts and records of tasks, and answers executors.
#[derive(Debug, Default, Parser)]
#[command(name = "provenderd", version, about, max_term_width = 100)]
pub struct Flags {
    /// Read this TOML file; docs/configuration.md lists its keys
    #[arg(long, env = "PROVENDER_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Keep data here [default: /var/lib/provender for root, else $XDG_DATA_HOME/provender]
    #[arg(long, env = "PROVENDER_DATA", value_name = "DIR", global = true)]
    pub data: Option<PathBuf>,
    /// Listen on TCP too; takes TLS and tokens, or --insecure on a loopback address
    #[arg(long, env = "PROVENDER_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Allow --listen on a loopback address without TLS and tokens
    #[arg(long, env = "PROVENDER_INSECURE", value_parser = clap::builder::FalseyValueParser::new())]
    pub insecure: bool,
    /// Show the store as read-only files here
    #[arg(long, env = "PROVENDER_MOUNT", value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Serve Prometheus metrics and health over HTTP here
    #[arg(long, env = "PROVENDER_METRICS_LISTEN", value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// How logs are written to standard error
    #[arg(long, env = "PROVENDER_LOG_FORMAT", value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
    /// What is logged, for example `info` or `provender_daemon=debug`
    #[arg(long, env = "PROVENDER_LOG", value_name = "FILTER", global = true)]
    pub log: Option<String>,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a store out of a backup, in an empty data folder or database; then start provenderd as usual
    ///
    /// Every byte is verified on its way. The store's incarnation is raised, so whoever began a task before is fenced out. If it is
    /// interrupted, ask again: until it is through nothing is served.
    Restore(Restore),
}

/// What to restore.
#[derive(Debug, Clone, clap::Args)]
pub struct Restore {
    /// The folder that holds backups: of `provender admin backup`, or of the metadata alone as a migration keeps it
    pub dir: PathBuf,
    /// Which backup, by its number [default: the newest]
    #[arg(long, value_name = "NUMBER")]
    pub at: Option<u64>,
    /// List the backups that are there
    #[arg(long, conflicts_with_all = ["at", "check"])]
    pub list: bool,
    /// Read and verify all that a restore would, and restore nothing
    #[arg(long)]
    pub check: bool,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What stands in the file. Everything has a default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    data: Option<PathBuf>,
    listen: Option<SocketAddr>,
    insecure: bool,
    socket_group: Option<String>,
    mount: Option<PathBuf>,
    mount_allow_other: bool,
    mount_passthrough: Option<bool>,
    mount_cache_bytes: Option<u64>,
    metrics_listen: Option<SocketAddr>,
    log_format: Option<LogFormat>,
    log: Option<String>,
    drain_seconds: Option<u64>,
    keep_uploads_seconds: Option<u64>,
    tls: Option<Tls>,
    tokens_file: Option<PathBuf>,
    meta: MetaConfig,
    blobs: Option<BlobsConfig>,
    aliases: Vec<Alias>,
    compression: CompressionFile,
    scrub: ScrubFile,
    gc: GcFile,
}

/// How often all blobs are read, and how fast.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ScrubFile {
    every_seconds: u64,
    bytes_per_second: NonZeroU64,
}

impl Default for ScrubFile {
    fn default() -> ScrubFile {
        const RATE: NonZeroU64 = NonZeroU64::new(16 << 20).expect("it is not zero");
        ScrubFile { every_seconds: 30 * 24 * 3600, bytes_per_second: RATE }
    }
}

/// The certificates of the TCP listener, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// If given, clients must show a certificate of this authority.
    pub client_ca: Option<PathBuf>,
}

/// Which blobs are compressed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CompressionFile {
    after_seconds: Option<u64>,
    min_bytes: u64,
    level: u8,
    bytes_per_second: NonZeroU64,
}

impl Default for CompressionFile {
    fn default() -> CompressionFile {
        let bytes_per_second = const { NonZeroU64::new(32 << 20).unwrap() };
        CompressionFile { after_seconds: None, min_bytes: 64 << 10, level: 3, bytes_per_second }
    }
}

/// A further hash by which blobs can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Alias {
    Sha256,
}

/// What the daemon runs with.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where data is kept.
    pub data: PathBuf,
    /// Where to listen on TCP.
    pub listen: Option<SocketAddr>,
    /// Whether TCP may be unprotected.
    pub insecure: bool,
    /// Whose members may use the unix socket, beside the owner.
    pub socket_group: Option<String>,
    /// Where to mount.
    pub mount: Option<PathBuf>,
    /// Whether others may look into the mount.
    pub mount_allow_other: bool,
    /// Whether the kernel reads files of the mount by itself, where it can.
    pub mount_passthrough: bool,
    /// How many bytes of blobs that are compressed are kept as they are read through the mount.
    pub mount_cache_bytes: u64,
    /// Where to serve metrics.
    pub metrics_listen: Option<SocketAddr>,
    /// How to log.
    pub log_format: LogFormat,
    /// What to log.
    pub log: String,
    /// How long calls that are under way may take when the daemon stops.
    pub drain: Duration,
    /// How long an upload that was cut off can be gone on with.
    pub keep_uploads: Duration,
    /// The certificates for TCP.
    pub tls: Option<Tls>,
    /// The file of tokens for TCP.
    pub tokens_file: Option<PathBuf>,
    /// Where metadata is kept.
    pub meta: MetaConfig,
    /// Where blobs are kept.
    pub blobs: BlobsConfig,
    /// Further hashes to compute of each blob.
    pub aliases: Vec<HashFunction>,
    /// How cold blobs are compressed, if they are.
    pub compression: Option<Compression>,
    /// How all blobs are read now and then, if they are.
    pub scrub: Option<Scrub>,
    /// How it is collected.
    pub collection: Collection,
}

/// Why the configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not as it should be.
    #[error("the configuration {} is not valid:\n{source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        source: Box<toml::de::Error>,
    },
    /// No level of zstd.
    #[error("compression.level is {level}: it must be from 1 (fast) to 19 (small)")]
    Level {
        /// As configured.
        level: u8,
    },
    /// A value makes no sense.
    #[error("{key}: {why}")]
    Value {
        /// Its key.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// There is no place for data.
    #[error("there is no place for data: HOME and XDG_DATA_HOME are not set; give --data DIR")]
    NoHome,
}

impl Config {
    /// The folder of its blobs, if they are in one.
    pub fn blob_dir(&self) -> Option<&Path> {
        match &self.blobs {
            BlobsConfig::Disk { dir } => Some(dir),
            _ => None,
        }
    }

    /// Takes flags (and variables, which clap reads) over the file over defaults.
    pub fn load(flags: Flags) -> Result<Config, ConfigError> {
        let file = match &flags.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let data = match flags.data.or(file.data) {
            Some(data) => data,
            None => default_data()?,
        };
        let blobs = file.blobs.unwrap_or_else(|| BlobsConfig::Disk { dir: data.join("blobs") });
        let aliases = file.aliases.into_iter().map(|alias| match alias {
            Alias::Sha256 => HashFunction::Sha256,
        });
        let every_seconds = file.scrub.every_seconds;
        let CompressionFile { after_seconds, min_bytes, level, bytes_per_second } = file.compression;
        if !(1..=19).contains(&level) {
            return Err(ConfigError::Level { level });
        }
        let compression = after_seconds.map(|after| Compression {
            after: Duration::from_secs(after),
            min_bytes,
            level: level.into(),
            bytes_per_second: bytes_per_second.get(),
        });
        Ok(Config {
            data,
            listen: flags.listen.or(file.listen),
            insecure: flags.insecure || file.insecure,
            socket_group: file.socket_group,
            mount: flags.mount.or(file.mount),
            mount_allow_other: file.mount_allow_other,
            mount_passthrough: file.mount_passthrough.unwrap_or(true),
            mount_cache_bytes: file.mount_cache_bytes.unwrap_or(4 << 30),
            metrics_listen: flags.metrics_listen.or(file.metrics_listen),
            log_format: flags.log_format.or(file.log_format).unwrap_or(LogFormat::Text),
            log: flags.log.or(file.log).unwrap_or_else(|| LOG.into()),
            drain: Duration::from_secs(file.drain_seconds.unwrap_or(20)),
            keep_uploads: Duration::from_secs(file.keep_uploads_seconds.unwrap_or(24 * 3600)),
            tls: file.tls,
            tokens_file: file.tokens_file,
            meta: file.meta,
            blobs,
            aliases: aliases.collect(),
            compression,
            scrub: (every_seconds > 0).then(|| Scrub {
                every: Duration::from_secs(every_seconds),
                bytes_per_second: file.scrub.bytes_per_second.get(),
            }),
            collection: file.gc.collection()?,
        })
    }
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })
}

fn default_data() -> Result<PathBuf, ConfigError> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/provender".into());
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    base.map(|base| base.join("provender")).ok_or(ConfigError::NoHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("provenderd.toml");
        std::fs::write(&path, toml).expect("written");
        let path = path.display().to_string();
        let words = ["provenderd", "--config", &path].into_iter().chain(flags.iter().copied());
        Config::load(Flags::try_parse_from(words).expect("flags"))
    }

    #[test]
    fn flags_win_over_the_file_over_defaults() {
        let toml = "data = \"/a\"\nlisten = \"127.0.0.1:1\"\ndrain_seconds = 3\n[meta]\nengine = \"memory\"\n";
        let config = load(toml, &["--data", "/b"]).expect("valid");
        assert_eq!(config.data, PathBuf::from("/b"));
        assert_eq!(config.listen, "127.0.0.1:1".parse().ok());
        assert_eq!(config.drain, Duration::from_secs(3));
        assert_eq!(config.meta, MetaConfig::Memory {});
        assert_eq!(config.blobs, BlobsConfig::Disk { dir: "/b/blobs".into() });
        assert_eq!(config.log_format, LogFormat::Text);
    }

    #[test]
    fn unknown_keys_are_named() {
        for (toml, key) in [
            ("data_dir = \"/a\"", "data_dir"),
            ("[tls]\ncert = \"a\"\nkey = \"b\"\nciphers = 1", "ciphers"),
            ("[meta]\nengine = \"rocksdb\"\nsize = 1", "size"),
            ("aliases = [\"md5\"]", "md5"),
            ("[compression]\nlevel = 20", "compression.level"),
            ("[compression]\nbytes_per_second = 0", "bytes_per_second"),
            ("[compression]\nafter = 1", "after"),
            ("[gc]\nprotect = 1", "protect"),
            ("[gc]\nrows_per_second = 0", "rows_per_second"),
            ("[gc]\nprotect_seconds = 0", "gc.protect_seconds"),
            ("[[gc.keep]]\nlast = 1", "last"),
        ] {
            let error = load(toml, &[]).expect_err("refused").to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
