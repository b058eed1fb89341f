//! What the daemon counts, for Prometheus.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};
use prometheus::{histogram_opts, opts};
use provender_fuse::Requests;

/// The counters, registered once a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Lookups, by verdict.
    pub lookups: IntCounterVec,
    /// Begins, by outcome.
    pub begins: IntCounterVec,
    /// Executions that ended, by verdict.
    pub ended: IntCounterVec,
    /// Decisions taken anew because others changed the same rows.
    pub conflicts: IntCounter,
    /// Bytes of blobs received.
    pub bytes_in: IntCounter,
    /// Bytes of blobs sent.
    pub bytes_out: IntCounter,
    /// Digests found missing or damaged.
    pub lost: IntCounter,
    /// Lost digests whose bytes were stored anew.
    pub healed: IntCounter,
    /// Blobs that were put into frames.
    pub compressed: IntCounter,
    /// Bytes that they take less than before.
    pub saved: IntCounter,
    /// Blobs that were verified.
    pub verified: IntCounter,
    /// Rows and entries of the metadata that were verified.
    pub verified_rows: IntCounter,
    /// Outboards that were verified.
    pub verified_outboards: IntCounter,
    /// Damage of the metadata that verifying found.
    pub damaged: IntCounter,
    /// Runs of collection.
    pub collections: IntCounter,
    /// Executions that were collected, by rule.
    pub collected: IntCounterVec,
    /// Rows that collecting read and wrote.
    pub collected_rows: IntCounter,
    /// Blobs that nothing referred to and that were removed.
    pub swept: IntCounter,
    /// Their bytes.
    pub swept_bytes: IntCounter,
    /// Bytes that blobs take.
    pub stored: IntGauge,
    /// Leases that this daemon watches.
    pub leases: IntGauge,
    /// Executors that wait for another's work.
    pub waiting: IntGauge,
    /// Watches that are being served.
    pub watching: IntGauge,
    /// What the kernel asks the mount for.
    pub mount: Arc<Requests>,
    /// Calls, by method and status code, in seconds.
    pub calls: HistogramVec,
}

impl Metrics {
    /// Fresh counters.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let vec = |name: &str, help: &str, label: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(opts!(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let buckets = prometheus::exponential_buckets(0.0001, 4.0, 10)?;
        let opts = histogram_opts!("provender_call_seconds", "gRPC calls by method and status code", buckets);
        let calls = HistogramVec::new(opts, &["method", "code"])?;
        registry.register(Box::new(calls.clone()))?;
        let mount = Arc::<Requests>::default();
        let help = "The kernel's requests to the mounted view, by FUSE operation";
        let requests = mount.clone();
        let counts = move || provender_fuse::Request::ALL.iter().map(|it| (it.name(), requests.count(*it))).collect();
        registry.register(Box::new(Counted::new("provender_mount_requests_total", help, counts)?))?;
        Ok(Metrics {
            lookups: vec("provender_lookups_total", "Keys looked up, by verdict", "verdict")?,
            begins: vec("provender_begins_total", "Begins, by outcome: hit, lease or busy", "outcome")?,
            ended: vec("provender_executions_ended_total", "Executions that ended, by verdict", "verdict")?,
            conflicts: counter(
                "provender_conflicts_total",
                "Decisions taken anew because others changed the same rows",
            )?,
            bytes_in: counter("provender_blob_bytes_received_total", "Bytes of blobs received")?,
            bytes_out: counter("provender_blob_bytes_sent_total", "Bytes of blobs sent")?,
            lost: counter("provender_blobs_lost_total", "Blobs that were found missing or damaged")?,
            healed: counter("provender_blobs_healed_total", "Lost blobs whose bytes were stored anew")?,
            compressed: counter("provender_blobs_compressed_total", "Cold blobs that were compressed")?,
            verified: counter("provender_blobs_verified_total", "Blobs that were looked at by verify or the scrub")?,
            verified_rows: counter("provender_rows_verified_total", "Rows of metadata that verify or the scrub read")?,
            verified_outboards: counter(
                "provender_outboards_verified_total",
                "Outboards of large blobs that verify or the scrub looked at",
            )?,
            damaged: counter("provender_metadata_damaged_total", "Places of the metadata that were found damaged")?,
            saved: counter("provender_blob_bytes_saved_total", "Bytes that compression of cold blobs has saved")?,
            collections: counter("provender_collections_total", "Runs of collection")?,
            collected: vec("provender_executions_collected_total", "Executions that were collected, by rule", "rule")?,
            collected_rows: counter("provender_collection_rows_total", "Rows that collecting read and wrote")?,
            swept: counter("provender_blobs_collected_total", "Blobs that nothing referred to and that were removed")?,
            swept_bytes: counter("provender_blob_bytes_collected_total", "Bytes of blobs that were removed")?,
            stored: gauge("provender_blob_bytes", "Bytes that blobs take")?,
            leases: gauge("provender_leases", "Live leases that this daemon watches")?,
            waiting: gauge("provender_waiting", "Executors that wait for another's work")?,
            watching: gauge("provender_watching", "Watches that are being served")?,
            mount,
            calls,
            registry,
        })
    }

    /// Counts what is asked of the bucket that blobs are in, too.
    pub fn count_bucket(&self, requests: &Arc<provender_blobs::Requests>) -> Result<(), prometheus::Error> {
        type Count = fn(&provender_blobs::Requests, provender_blobs::Request) -> u64;
        let counted = |name, help, count: Count| {
            let requests = requests.clone();
            let counts = move || provender_blobs::Request::ALL.map(|it| (it.name(), count(&requests, it))).to_vec();
            Counted::new(name, help, counts).and_then(|counted| self.registry.register(Box::new(counted)))
        };
        let help = "Requests to the bucket, by kind, those included that were tried again";
        counted("provender_bucket_requests_total", help, provender_blobs::Requests::sent)?;
        let help = "Requests to the bucket that came to no answer, or to one of a server in trouble";
        counted("provender_bucket_requests_failed_total", help, provender_blobs::Requests::failed)
    }

    /// All of them in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Writing into memory cannot fail, and a family that cannot be encoded is left out.
        _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}

/// What is counted elsewhere, by kind of request.
struct Counted {
    counts: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
    counters: IntCounterVec,
}

impl Counted {
    fn new(
        name: &str,
        help: &str,
        counts: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
    ) -> Result<Counted, prometheus::Error> {
        Ok(Counted { counts: Box::new(counts), counters: IntCounterVec::new(opts!(name, help), &["request"])? })
    }
}

impl Collector for Counted {
    fn desc(&self) -> Vec<&Desc> {
        self.counters.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (kind, count) in (self.counts)() {
            let counter = self.counters.with_label_values(&[kind]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        self.counters.collect()
    }
}
