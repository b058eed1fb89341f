//! Mounts of users who are not root: with the one capability of the service, and with none, through fusermount3.
//!
//! Each runs in a mount namespace of its own, where everybody may open `/dev/fuse`, as distributions have it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use provender_tests::child;

use crate::world::folder;

/// Takes the scratch folder and the words that make a plain user of whoever runs what follows them; says what it sees, line by line.
const SCRIPT: &str = r#"
set -eu
scratch=$1; capabilities=$2; cd "$scratch"
user() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
mkdir dev; mount -t tmpfs none dev; mknod dev/fuse c 10 229; chmod 666 dev/fuse; mount --bind dev/fuse /dev/fuse
mkdir source; head -c 3000000 /dev/urandom > source/large; echo small > source/small; seq 9000 > source/later
chown -R 65534:65534 "$scratch"
export HOME="$scratch" PROVENDER_REMOTE="unix:$scratch/data/provender.sock"
# shellcheck disable=SC2086 # several words
setpriv --reuid=65534 --regid=65534 --clear-groups $capabilities ./provenderd --data data --mount view --metrics-listen 127.0.0.1:0 --log-format json > log 2>&1 &
server=$!
trap 'kill -9 $server 2> /dev/null || true; umount -l view 2> /dev/null || true' EXIT
until grep -q metrics.and.health log; do kill -0 $server; sleep 0.1; done
user ./provender --quiet put source --name made/here > /dev/null
for file in large small; do user cmp source/$file view/tasks/made/here/latest/out/$file; done
address=$(sed -n 's/.*metrics and health.*Some(\([0-9.:]*\)).*/\1/p' log)
echo "reads $(curl --silent --max-time 10 "http://$address/metrics" | sed -n 's/.*request="read"} //p')"
echo "fallbacks $(grep -c 'read through this process' log || true)"
kill -STOP $server
# Not looked at yet, so that it has to be asked for.
began=$(date +%s)
user timeout --signal=KILL 100 cat view/tasks/made/here/latest/out/later > /dev/null 2>&1 && echo "served by nobody" || echo "stopped $(($? == 137))"
echo "waited $(($(date +%s) - began))"
kill -CONT $server
for _ in $(seq 100); do user cmp -s source/later view/tasks/made/here/latest/out/later && break; sleep 0.1; done
user cmp source/later view/tasks/made/here/latest/out/later && echo "again"
kill $server; wait $server || true
echo "mounted $(grep -c "$scratch/view" /proc/mounts || true)"
"#;

/// What the script says of a user with these `setpriv` words, as pairs of a word and a number.
fn says(capabilities: &str) -> Vec<(String, u64)> {
    assert!(rustix::process::geteuid().is_root(), "this test makes a mount namespace: run it as root");
    let scratch = folder();
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for program in ["provenderd", "provender"] {
        std::fs::copy(child::program(program), scratch.path().join(program)).unwrap();
    }
    let ran = Command::new("timeout")
        .args(["--kill-after=5", "150", "unshare", "--mount", "sh", "-c", SCRIPT, "sh"])
        .args([scratch.path().as_os_str(), capabilities.as_ref()])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let log = std::fs::read_to_string(scratch.path().join("log")).unwrap_or_default();
    assert!(ran.status.success(), "{out}\n{err}\n{log}");
    let pair = |line: &str| match line.split_once(' ') {
        Some((word, number)) => (word.to_owned(), number.parse().unwrap_or_else(|_| panic!("{line}\n{log}"))),
        None => (line.to_owned(), 0),
    };
    out.lines().map(pair).collect()
}

/// The number of a word.
fn of(said: &[(String, u64)], word: &str) -> u64 {
    said.iter().find(|(known, _)| known == word).unwrap_or_else(|| panic!("no {word} in {said:?}")).1
}

/// Whoever reads gets an answer, or an error soon; and all is well again afterwards.
fn nobody_hangs(said: &[(String, u64)]) {
    assert_eq!(of(said, "stopped"), 0, "the reader had to be killed: {said:?}");
    assert!(of(said, "waited") < 60, "{said:?}");
    assert_eq!((of(said, "again"), of(said, "mounted")), (0, 0), "{said:?}");
}

#[test]
fn the_services_one_capability_has_the_kernel_read_by_itself() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/provenderd.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let capability = unit.lines().find_map(|line| line.strip_prefix("AmbientCapabilities=CAP_")).unwrap();
    let has = format!("-all,+{}", capability.to_lowercase());
    let said = says(&format!("--bounding-set={has} --inh-caps={has} --ambient-caps={has}"));
    // Small ones are read through the daemon, which has them in its metadata.
    assert!(of(&said, "reads") <= 1, "{said:?}");
    assert_eq!(of(&said, "fallbacks"), 0, "{said:?}");
    nobody_hangs(&said);
}

#[test]
fn who_has_no_capability_reads_through_the_process_and_is_told_once() {
    let said = says("--inh-caps=-all");
    assert!(of(&said, "reads") > 1, "{said:?}");
    assert_eq!(of(&said, "fallbacks"), 1, "{said:?}");
    nobody_hangs(&said);
}
