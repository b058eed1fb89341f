use super::*;

#[test]
fn configurations_are_read_and_unknown_keys_refused() {
    let read = |text: &str| toml::from_str::<MetaConfig>(text);
    assert_eq!(read("engine = 'rocksdb'").unwrap(), MetaConfig::default());
    let MetaConfig::Rocksdb(rocks) = read("engine = 'rocksdb'\ncache_bytes = 1000").unwrap() else { panic!() };
    assert_eq!(rocks, RocksConfig { cache_bytes: 1000, ..RocksConfig::default() });
    let MetaConfig::Postgres(postgres) = read("engine = 'postgres'\nurl = 'postgres://me:secret@db/x'").unwrap() else {
        panic!()
    };
    assert!(!format!("{postgres:?}").contains("secret"), "{postgres:?}");
    assert_eq!(read("engine = 'memory'").unwrap(), MetaConfig::Memory {});

    assert!(read("engine = 'postgres'").is_err());
    assert!(read("engine = 'other'").is_err());
    for engine in ["rocksdb", "postgres", "memory"] {
        let error = read(&format!("engine = '{engine}'\nurll = 'x'\nurl = 'x'")).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{error}");
    }
}
