//! How RocksDB is set up: bounded memory and files, point reads first, and a log that is believed only when it is whole.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode,
    DataBlockIndexType, Options, WriteBufferManager, WriteOptions,
};

use super::RocksConfig;
use super::format::{FATES, FEED, INLINE, ROWS};

/// What the whole database shares.
pub(super) fn database(config: &RocksConfig) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);

    // Every write is synced before it is acknowledged, so only the last record of a log can be incomplete, and that one was
    // never acknowledged: this mode drops it. Any other damage makes the open fail, where the default (point in time) would
    // silently drop everything behind it, acknowledged or not; and a log that lost its synced end is missed by its size.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    // Blocks of sorted files, records of blob files and of logs have checksums, which every read from disk looks at: that is RocksDB's default
    // for reads and compactions alike. What the cache holds was looked at on its way in. [`super::log`] finds what logs are silent about.

    options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(config.write_buffer_bytes, false));
    options.set_max_total_wal_size(config.write_buffer_bytes as u64);
    options.set_max_open_files(512);
    options.set_max_background_jobs(4);
    options.set_bytes_per_sync(1 << 20);
    options.set_skip_stats_update_on_db_open(true);

    // RocksDB's own log, not the write-ahead log.
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// Every column family.
pub(super) fn families(config: &RocksConfig) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(config.cache_bytes);
    let small = (config.write_buffer_bytes / 8).max(1 << 20);
    let large = (config.write_buffer_bytes / 2).max(1 << 20);

    let mut inline = family(&cache, large);
    // Values of up to 16 KiB would be rewritten by every compaction; apart in blob files they are written twice (log, blob
    // file) and then only when much around them has died. What is stored there is often compressed already.
    inline.set_enable_blob_files(true);
    inline.set_min_blob_size(512);
    inline.set_blob_file_size(64 << 20);
    inline.set_blob_compression_type(DBCompressionType::None);
    inline.set_enable_blob_gc(true);
    inline.set_blob_gc_age_cutoff(0.25);
    inline.set_blob_gc_force_threshold(0.5);

    vec![
        ColumnFamilyDescriptor::new(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, family(&cache, small)),
        ColumnFamilyDescriptor::new(ROWS, family(&cache, large)),
        ColumnFamilyDescriptor::new(INLINE, inline),
        ColumnFamilyDescriptor::new(FEED, family(&cache, small)),
        ColumnFamilyDescriptor::new(FATES, family(&cache, small)),
    ]
}

fn family(cache: &Cache, write_buffer: usize) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(8 << 10);
    // Most point reads are of rows that are there, or of keys never seen: the filter spares the latter the disk.
    table.set_bloom_filter(10.0, false);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    // Indexes and filters count against the cache, so that memory stays bounded however many rows there are.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // In small parts: whole, those of a million small rows have megabytes, more than a shard of the cache holds, and are read again and again.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);

    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(write_buffer);
    options.set_memtable_prefix_bloom_ratio(0.02);
    options.set_memtable_whole_key_filtering(true);
    // The last level holds nine tenths of the rows; the rest is rewritten too soon to be worth it.
    options.set_compression_type(DBCompressionType::None);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options
}

/// Durable before visible. Where RocksDB would hold a write back it answers `Incomplete` instead, since on a full disk it
/// would hold it back until there is space.
pub(super) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options.set_no_slowdown(true);
    options
}
