//! Writers that die, and how much memory a living one takes. Each runs as a process of its own: `src/bin/blob_writer.rs`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use provender_blobs::Location;

use super::disk::{far_future, files, open};
use super::{list, read};

/// A running writer. It ends with its standard input, so also with this process.
struct Writer {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Writer {
    fn start(program: &Path, mode: &str, dir: &Path) -> Writer {
        let mut child = Command::new(program)
            .arg(mode)
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the writer");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Writer { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the writer ended").expect("a line")
    }

    fn kill(mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("wait");
    }
}

/// A writer killed mid-stage leaves nothing that can be seen, and what it leaves in staging is swept.
pub async fn a_killed_writer_is_swept(program: &Path, dir: &Path) {
    let blobs = open(dir, None).await.expect("open");
    let mut writer = Writer::start(program, "hold", dir);
    assert_eq!(writer.line(), "staged");
    assert_eq!(blobs.sweep(far_future()).await.expect("sweep"), 0, "a live writer was swept");
    assert_eq!(files(dir).len(), 1);
    writer.kill();
    assert_eq!(list(&*blobs, 10).await, []);
    assert_eq!(files(dir).len(), 1, "the test is void: the writer left nothing");
    assert_eq!(blobs.sweep(far_future()).await.expect("sweep"), 1);
    assert_eq!(files(dir).len(), 0);
}

/// A writer killed at any moment: what it had published is there, and all that can be seen is whole.
pub async fn what_a_killed_writer_published_is_whole(program: &Path, dir: &Path) {
    let blobs = open(dir, None).await.expect("open");
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let mut writer = Writer::start(program, "publish", dir);
        acknowledged.extend((0..3 + 2 * round).map(|_| writer.line()));
        writer.kill();
    }
    let listed = list(&*blobs, 10).await;
    for text in acknowledged {
        let location: Location = text.parse().expect("a location");
        assert!(listed.contains(&location));
    }
    for location in &listed {
        read(&*blobs, location).await.expect("a whole blob");
    }
    blobs.sweep(far_future()).await.expect("sweep");
    assert_eq!(files(dir).len(), listed.len());
}

/// 256 MiB go in and out in little memory, as they are and in frames.
pub fn a_large_blob_takes_little_memory(program: &Path, dir: &Path) {
    for mode in ["through", "packed"] {
        let mut writer = Writer::start(program, mode, dir);
        let grown: u64 = writer.line().parse().expect("the growth of the peak, in KiB");
        assert!(writer.child.wait().expect("wait").success());
        assert!(grown < 32 * 1024, "the peak of {mode:?} grew by {grown} KiB");
    }
}
