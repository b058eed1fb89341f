//! Daemons whose blobs are in a bucket of a real S3 server.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use provender_tests::bucket::proxy::{Fault, Proxy};
use provender_tests::bucket::{self, Server, client};
use provender_tests::child::Ran;
use provender_tests::conformance::blobs::bytes;
use provender_tests::daemon::Daemon;
use provender_tests::provender::Provender;

use crate::cluster::Cluster;
use crate::raw::Raw;
use crate::world::verdict;

const LARGE: usize = 20_000_000;

/// A task that makes a large file, a middle one and some small ones in the folder of a user.
fn run(user: &Provender) -> Ran {
    let script = format!(
        "mkdir -p out; head -c {LARGE} /dev/zero | tr '\\0' l >out/large; head -c 999999 /dev/zero >out/middle; \
         for n in 1 2 3; do echo $n >out/small-$n; done; echo ran >>ran"
    );
    user.run(["run", "--name", "task", "--key", "test:bucket", "--out", "out", "--", "sh", "-c", &script])
}

/// How often it ran there.
fn ran(work: &Path) -> usize {
    fs::read_to_string(work.join("ran")).unwrap_or_default().lines().count()
}

#[test]
fn postgres_daemons_share_a_bucket_and_a_new_machine_finds_all_there() {
    let server = Server::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let proxy = runtime.block_on(Proxy::start(server.address()));
    let cluster = Cluster::two_on_postgres_in_a_bucket(2, &bucket::toml(&proxy.address(), "e2e"));
    let works = ["u0", "u1"].map(|name| cluster.shared(name));
    for user in &cluster.users {
        run(user).ok();
    }
    assert_eq!(works.each_ref().map(|work| ran(work)), [1, 0], "the other daemon hits");

    // A machine that has nothing.
    let (config, work) = (cluster.shared("provenderd.toml"), cluster.shared("u3"));
    let third = Daemon::start(&cluster.shared("d3"), &["--config", config.to_str().unwrap()]);
    fs::create_dir(&work).unwrap();
    let user = Provender::new(&cluster.shared("h"), &work, &third.remote());
    run(&user).ok();
    assert_eq!((ran(&work), fs::read(work.join("out/large")).unwrap()), (0, vec![b'l'; LARGE]));

    // What is acknowledged names where it is.
    for size in [1_000, 1_000_000] {
        let sent = async { Raw::to(&third.remote()).await.send(&bytes(1, size), None).await.unwrap() };
        assert_eq!(runtime.block_on(sent), "bucket");
    }

    // While the bucket refuses or is gone nothing is lost, and whoever waits is told why, and soon.
    for (fault, says) in [
        (Fault::Refuse(403, "AccessDenied"), "AccessDenied"),
        (Fault::Refuse(404, "NoSuchBucket"), "there is no such bucket"),
        (Fault::Hangup, "not available"),
    ] {
        proxy.judge(move |_| Some(fault));
        let began = Instant::now();
        let refused = user.run(["cat", "test:bucket", "out/large"]).says(&[says]);
        assert!(refused.status.code() != Some(0) && began.elapsed() < Duration::from_secs(120));
        assert_eq!(verdict(&user, "test:bucket"), "SUCCEEDED");
    }
    proxy.heal();
    assert_eq!(user.run(["cat", "test:bucket", "out/large"]).ok().stdout, vec![b'l'; LARGE]);

    // What somebody removed is LOST, and the next run makes it anew.
    let objects = runtime.block_on(async {
        let (client, folder) = (client(&server.address()), "e2e/objects".into());
        let objects: Vec<_> = client.list(Some(&folder)).try_collect().await.unwrap();
        let large = objects.iter().find(|object| object.size == LARGE as u64).expect("one object for the large file");
        client.delete(&large.location).await.unwrap();
        objects.len()
    });
    assert!(objects >= 2);
    user.run(["cat", "test:bucket", "out/middle"]).ok();
    user.run(["cat", "test:bucket", "out/large"]).says(&["is lost"]);
    assert_eq!(verdict(&user, "test:bucket"), "LOST");
    fs::remove_dir_all(work.join("out")).unwrap();
    run(&user).ok();
    assert_eq!((ran(&work), verdict(&user, "test:bucket")), (1, "SUCCEEDED".into()));
    assert_eq!(cluster.users[0].run(["cat", "test:bucket", "out/large"]).ok().stdout, vec![b'l'; LARGE]);
    user.run(["verify", "--deep"]).ok();
}
