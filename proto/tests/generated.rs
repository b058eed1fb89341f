//! The committed code of `src/gen/` is what the `.proto` files say. After changing one: `UPDATE_PROTO=1 cargo test -p provender-proto`.

use std::fs;
use std::path::Path;

const FILES: [&str; 9] = [
    "provender/v1/types.proto",
    "provender/v1/tasks.proto",
    "provender/v1/blobs.proto",
    "provender/v1/catalog.proto",
    "provender/v1/view.proto",
    "provender/v1/handover.proto",
    "provender/v1/admin.proto",
    "provender/store/v1/rows.proto",
    "provender/store/v1/backup.proto",
];

fn generate(into: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut compiler = protox::Compiler::new([root]).expect("the folder of the protos");
    compiler.include_source_info(true).include_imports(true).open_files(FILES).expect("valid protos");
    let files = compiler.file_descriptor_set();
    tonic_prost_build::configure().bytes(".").out_dir(into).compile_fds(files).expect("generated");
    compiler.include_source_info(false);
    fs::write(into.join("descriptors.bin"), compiler.encode_file_descriptor_set()).expect("written");
}

#[test]
fn generated_code_is_current() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if std::env::var_os("UPDATE_PROTO").is_some() {
        return generate(&committed);
    }
    let fresh = tempfile::tempdir().expect("a folder");
    generate(fresh.path());
    for entry in fs::read_dir(fresh.path()).expect("a folder") {
        let name = entry.expect("an entry").file_name();
        let read = |folder: &Path| fs::read(folder.join(&name)).unwrap_or_default();
        assert!(
            read(fresh.path()) == read(&committed),
            "{name:?} is not current: UPDATE_PROTO=1 cargo test -p provender-proto"
        );
    }
}
