//! A disk that is full, and then is not any more.

use std::path::Path;
use std::time::Duration;

use provender_core::batch::{RowKey, Table};
use provender_daemon::meta::{CommitError, MetaConfig, MetaError, RocksConfig, open};

use super::{batch, get, name};

/// Fills the small file system that is mounted at `folder` until commits are refused, then frees it.
pub async fn a_full_disk_refuses_writes_until_there_is_space(folder: &Path) {
    let config = MetaConfig::Rocksdb(RocksConfig { write_buffer_bytes: 4 << 20, ..RocksConfig::default() });
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![1; 32 << 20]).unwrap();
    let meta = open(&config, folder).await.unwrap();
    let (mut there, mut refused) = (Vec::new(), Vec::new());
    for n in 0.. {
        let key = RowKey { table: if n % 2 == 0 { Table::Inline } else { Table::Key }, key: name(n) };
        let mut batch = batch();
        batch.put(key.clone(), vec![n as u8; 60_000]);
        match meta.commit(batch).await {
            Ok(_) => there.push(key),
            Err(error) => {
                let full = matches!(&error, CommitError::NotCommitted { source: MetaError::Full { .. } });
                assert!(full, "{error:?}");
                refused.push(key);
                // Reads go on.
                assert!(get(&*meta, &there[0]).await.is_some());
            }
        }
        if refused.len() > 20 {
            break;
        }
    }
    std::fs::remove_file(&ballast).unwrap();
    let key = RowKey { table: Table::Key, key: "after".into() };
    let writes_again = async {
        loop {
            let mut batch = batch();
            batch.put(key.clone(), "");
            match meta.commit(batch).await {
                Ok(_) => return,
                Err(error) => println!("{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), writes_again).await.expect("writes go on once there is space");
    there.push(key);
    for _ in 0..2 {
        for key in &there {
            assert!(get(&*meta, key).await.is_some(), "{key:?} was acknowledged");
        }
        for key in &refused {
            assert_eq!(get(&*meta, key).await, None, "{key:?} was refused");
        }
    }
    drop(meta);
    let meta = open(&config, folder).await.unwrap();
    for key in &there {
        assert!(get(&*meta, key).await.is_some(), "{key:?} was acknowledged");
    }
    for key in &refused {
        assert_eq!(get(&*meta, key).await, None, "{key:?} was refused");
    }
}
