//! What a command measured: a JSON object that it may write to `$PROVENDER_METRICS`.
//!
//! Invariant: whatever stands there, the command's success does not depend on it; what cannot be kept is told.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use provender_core::execution::{MAX_METRICS, Metrics};
use rustix::fs::OFlags;
use tempfile::TempDir;

/// The variable that tells a command where to write.
const VARIABLE: &str = "PROVENDER_METRICS";

/// Where one command may write what it measured.
#[derive(Debug)]
pub(super) struct Place(TempDir);

impl Place {
    pub(super) fn new() -> io::Result<Place> {
        tempfile::Builder::new().prefix("provender-metrics-").tempdir().map(Place)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("metrics.json")
    }

    /// What the command is told.
    pub(super) fn env(&self) -> (OsString, Option<OsString>) {
        (VARIABLE.into(), Some(self.path().into()))
    }

    /// What it wrote, if it wrote anything; or why that cannot be kept.
    pub(super) fn take(self) -> Result<Metrics, String> {
        // What is no file, such as a pipe, must not be waited for.
        let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits();
        let opened =
            OpenOptions::new().read(true).custom_flags(i32::from_ne_bytes(flags.to_ne_bytes())).open(self.path());
        let file = match opened {
            Ok(file) if file.metadata().is_ok_and(|found| found.is_file()) => file,
            Ok(_) => return Err("it is no file".into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Metrics::new()),
            Err(error) => return Err(error.to_string()),
        };
        let mut text = Vec::new();
        file.take(MAX_METRICS as u64 + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
        if text.len() > MAX_METRICS {
            return Err(format!("it has more than {MAX_METRICS} bytes"));
        }
        if text.trim_ascii().is_empty() {
            return Ok(Metrics::new());
        }
        let metrics: Metrics =
            serde_json::from_slice(&text).map_err(|error| format!("it is no JSON object: {error}"))?;
        // As they are sent: `1e15` is written out there.
        match metrics.iter().map(|(name, value)| name.len() + value.to_string().len()).sum::<usize>() {
            0..=MAX_METRICS => Ok(metrics),
            size => Err(format!("it has {size} bytes once its numbers are written out, more than {MAX_METRICS}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrote(bytes: &[u8]) -> Result<Metrics, String> {
        let place = Place::new().unwrap();
        std::fs::write(place.path(), bytes).unwrap();
        place.take()
    }

    #[test]
    fn an_object_is_kept_and_anything_else_is_told() {
        assert_eq!(wrote(br#"{"a": 1, "b": {"c": 0.5}}"#).unwrap()["b"], json!({ "c": 0.5 }));
        assert_eq!(wrote(b" \n"), Ok(Metrics::new()));
        assert_eq!(Place::new().unwrap().take(), Ok(Metrics::new()));
        for bad in [&b"[1]"[..], b"{\"a\": NaN}", b"{", b"\xff", b"7"] {
            assert!(wrote(bad).unwrap_err().starts_with("it is no JSON object: "), "{bad:?}");
        }
        assert!(wrote(&[b' '; MAX_METRICS + 1]).unwrap_err().contains("more than"));
        let long = format!("{{\"a\": [{}0]}}", "1e15,".repeat(10_000));
        assert!(wrote(long.as_bytes()).unwrap_err().contains("once its numbers are written out"));
        let place = Place::new().unwrap();
        let pipe = rustix::fs::mknodat(rustix::fs::CWD, place.path(), rustix::fs::FileType::Fifo, 0o600.into(), 0);
        pipe.unwrap();
        assert_eq!(place.take().unwrap_err(), "it is no file");
        let place = Place::new().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", place.path()).unwrap();
        assert!(place.take().is_err());
    }
}
