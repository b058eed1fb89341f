//! A process that a metadata test can kill or lock up: `meta-child write|full JSON FOLDER [ROUND]`.

use std::path::PathBuf;

use provender_tests::conformance::meta::{crash, full};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().unwrap_or_default();
    let (mode, config, folder) = (next(), next(), PathBuf::from(next()));
    match mode.as_str() {
        "full" => full::a_full_disk_refuses_writes_until_there_is_space(&folder).await,
        "write" => {
            let config = serde_json::from_str(&config).expect("a metadata configuration");
            let meta = provender_daemon::meta::open(&config, &folder).await.expect("the storage opens");
            crash::write(meta, next().parse().expect("a round")).await;
        }
        other => eprintln!("meta-child cannot {other:?}"),
    }
}
