//! A daemon that is started on a full disk: it serves reads, or says what to do.

use provender_tests::daemon::Daemon;

use super::*;

/// Started where there is no room, it serves or refuses in so many words; with room it serves, and has all that it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_serves_or_says_what_to_do() {
    let mut small = Small::new(EXT4, SMALL_BUFFERS);
    let mut served = 0;
    for (round, leave) in [0, 64 << 10, 1 << 20].into_iter().enumerate() {
        let (there, _) = {
            small.fill(leave);
            small.write_rows(round as u64).await
        };
        if round == 1 {
            small.world.daemon.stop()
        } else {
            small.world.daemon.kill()
        }
        small.fill(0);
        let data = small.world.data();
        let file = small.world.root().join("provenderd.toml");
        let mut started = Daemon::begin(&data, &["--config", file.to_str().unwrap()]);
        let mut ended = None;
        eventually("it serves or refuses", || {
            ended = started.ended();
            ended.is_some() || started.stderr().contains("\"serving\"")
        });
        if ended.is_some() {
            let told = started.wait().code(1).says(&["is full", "No space left on device", "free some space"]);
            eprintln!("full: refused: {}", told.err());
        } else {
            served += 1;
            let mut client = small.blobs().await;
            all_there(&mut client, &there).await;
            drop(started);
        }
        small.free();
        small.world.daemon.restart();
        small.heals().await;
        all_there(&mut small.blobs().await, &there).await;
    }
    eprintln!("full: served {served} times of 3");
}

async fn all_there(client: &mut BlobsClient<Channel>, blobs: &[Bytes]) {
    for blob in blobs {
        assert!(download(client, &Digest::of(blob)).await.unwrap() == *blob);
    }
}
