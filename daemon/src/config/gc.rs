//! `[gc]`: how it is collected.
//!
//! Percentages are written with one decimal at most, since inside they are thousandths.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::Duration;

use provender_core::collect::rules::{Keep, Rules};
use provender_core::name::Name;
use serde::Deserialize;

use super::ConfigError;
use crate::store::Collection;

/// What stands under `[gc]`. Everything has a default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GcFile {
    protect_seconds: Option<u64>,
    every_seconds: Option<u64>,
    quota_bytes: Option<u64>,
    quota_percent: Option<f64>,
    reserve_bytes: Option<u64>,
    reserve_percent: Option<f64>,
    high_percent: Option<f64>,
    low_percent: Option<f64>,
    rows_per_second: Option<NonZeroU64>,
    tombstones: Option<u64>,
    keep: Vec<KeepFile>,
}

/// One `[[gc.keep]]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KeepFile {
    prefix: String,
    latest: Option<u64>,
    used_within_seconds: Option<u64>,
    failed_within_seconds: Option<u64>,
}

impl GcFile {
    /// What it asks for, over the defaults.
    pub(super) fn collection(self) -> Result<Collection, ConfigError> {
        let usual = Collection::default();
        let part = |key, percent: Option<f64>, usual| percent.map_or(Ok(usual), |percent| thousandths(key, percent));
        let seconds = |seconds: Option<u64>, usual| seconds.map_or(usual, Duration::from_secs);
        let how = Collection {
            protect: seconds(self.protect_seconds, usual.protect),
            rules: rules(self.keep)?,
            quota: self.quota_bytes,
            quota_part: part("gc.quota_percent", self.quota_percent, usual.quota_part)?,
            reserve: self.reserve_bytes,
            reserve_part: part("gc.reserve_percent", self.reserve_percent, usual.reserve_part)?,
            high: part("gc.high_percent", self.high_percent, usual.high)?,
            low: part("gc.low_percent", self.low_percent, usual.low)?,
            every: seconds(self.every_seconds, usual.every),
            rows_per_second: self.rows_per_second.map_or(usual.rows_per_second, NonZeroU64::get),
            tombstones: self.tombstones.unwrap_or(usual.tombstones),
        };
        if how.protect.is_zero() {
            let why = "it is 0, and an upload could be collected before its commit: it takes a second at least";
            return Err(refused("gc.protect_seconds", why));
        }
        for (key, is_zero) in
            [("gc.quota_bytes", how.quota == Some(0)), ("gc.quota_percent", how.quota.is_none() && how.quota_part == 0)]
        {
            if is_zero {
                return Err(refused(key, "it is 0, and nothing could be stored: leave it out, or say how much may be"));
            }
        }
        if how.high == 0 {
            let why = "it is 0, and whatever is stored would be too much: collecting begins at so much of the quota";
            return Err(refused("gc.high_percent", why));
        }
        if how.reserve.is_none() && how.reserve_part == 1000 {
            let why = "it is 100, and nothing could be stored: so much of the disk is to stay free";
            return Err(refused("gc.reserve_percent", why));
        }
        if how.low > how.high {
            let (low, high) = (percent(how.low), percent(how.high));
            let why = format!(
                "it is {low}, more than gc.high_percent, which is {high}: collecting begins at the high one and ends at the low one"
            );
            return Err(refused("gc.low_percent", why));
        }
        Ok(how)
    }
}

fn rules(files: Vec<KeepFile>) -> Result<Rules, ConfigError> {
    let (mut keep, mut prefixes) = (Vec::with_capacity(files.len()), BTreeSet::new());
    for file in files {
        let prefix = file.prefix.strip_suffix('/').unwrap_or(&file.prefix).to_owned();
        if !file.prefix.is_empty() {
            Name::new(prefix.as_str()).map_err(|error| refused("gc.keep.prefix", error))?;
        }
        if !prefixes.insert(prefix.clone()) {
            let why = format!("{prefix:?} stands in two [[gc.keep]]: say in one of them what is kept");
            return Err(refused("gc.keep.prefix", why));
        }
        if file.latest == Some(0) {
            let why = format!(
                "it is 0 for {prefix:?}, and no record would stay: it takes 1 at least; to keep by use alone, leave it out"
            );
            return Err(refused("gc.keep.latest", why));
        }
        keep.push(Keep {
            prefix,
            latest: file.latest,
            used_within: file.used_within_seconds.map(Duration::from_secs),
            failed_within: file.failed_within_seconds.map(Duration::from_secs),
        });
    }
    Ok(Rules::new(keep))
}

fn thousandths(key: &'static str, percent: f64) -> Result<u16, ConfigError> {
    match percent {
        percent if (0.0..=100.0).contains(&percent) => Ok((percent * 10.0).round() as u16),
        percent => Err(refused(key, format!("it is {percent}: it must be from 0 to 100"))),
    }
}

fn percent(thousandths: u16) -> f64 {
    f64::from(thousandths) / 10.0
}

fn refused(key: &'static str, why: impl ToString) -> ConfigError {
    ConfigError::Value { key, why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str) -> Result<Collection, ConfigError> {
        toml::from_str::<GcFile>(toml).expect("it parses").collection()
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(load("").expect("valid"), Collection::default());
    }

    #[test]
    fn what_is_said_is_taken() {
        let toml = "protect_seconds = 60\nevery_seconds = 0\nquota_bytes = 1000\nquota_percent = 50\nreserve_bytes = 0\n\
            reserve_percent = 2.5\nhigh_percent = 90\nlow_percent = 90\nrows_per_second = 7\ntombstones = 0\n\
            [[keep]]\nlatest = 2\nfailed_within_seconds = 0\n[[keep]]\nprefix = \"a/b/\"\nused_within_seconds = 9\n";
        let keep = vec![
            Keep { latest: Some(2), failed_within: Some(Duration::ZERO), ..Keep::default() },
            Keep { prefix: "a/b".into(), used_within: Some(Duration::from_secs(9)), ..Keep::default() },
        ];
        let expected = Collection {
            protect: Duration::from_secs(60),
            rules: Rules::new(keep),
            quota: Some(1000),
            quota_part: 500,
            reserve: Some(0),
            reserve_part: 25,
            high: 900,
            low: 900,
            every: Duration::ZERO,
            rows_per_second: 7,
            tombstones: 0,
        };
        assert_eq!(load(toml).expect("valid"), expected);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        for (toml, key) in [
            ("protect_seconds = 0", "gc.protect_seconds"),
            ("quota_percent = 100.1", "gc.quota_percent"),
            ("quota_percent = nan", "gc.quota_percent"),
            ("quota_percent = 0", "gc.quota_percent"),
            ("quota_bytes = 0", "gc.quota_bytes"),
            ("reserve_percent = 101", "gc.reserve_percent"),
            ("high_percent = 200", "gc.high_percent"),
            ("low_percent = -1", "gc.low_percent"),
            ("high_percent = 80", "gc.low_percent"),
            ("[[keep]]\nlatest = 0", "gc.keep.latest"),
            ("[[keep]]\nprefix = \"a\"\n[[keep]]\nprefix = \"a/\"", "gc.keep.prefix"),
            ("[[keep]]\n[[keep]]\nlatest = 3", "gc.keep.prefix"),
            ("[[keep]]\nprefix = \"/\"", "gc.keep.prefix"),
            ("[[keep]]\nprefix = \"a/../b\"", "gc.keep.prefix"),
        ] {
            let error = load(toml).expect_err("refused").to_string();
            assert!(error.starts_with(key), "{toml}: {error}");
        }
    }
}
