//! What was made is used where it is shown: programs, libraries, packages, databases and repositories, straight from either mount.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{GIT, Site, latest, started, succeeds};

/// One output with one of each.
fn outputs(at: &Path) {
    std::fs::create_dir_all(at.join("package/sub")).unwrap();
    let write = |path: &str, content: &str| std::fs::write(at.join(path), content).unwrap();
    let path = |path: &str| at.join(path).to_str().unwrap().to_owned();

    write("answer.c", "int answer(void) { return 42; }\n");
    write(
        "ask.c",
        "#include <stdio.h>\nint answer(void);\nint main(void) { printf(\"%d\\n\", answer()); return 0; }\n",
    );
    succeeds(&["cc", "-shared", "-fPIC", "-o", &path("libanswer.so"), &path("answer.c")]);
    succeeds(&["cc", "-o", &path("whole"), &path("ask.c"), &path("answer.c")]);
    let library = ["-L", &path(""), "-lanswer"];
    succeeds(&[&["cc", "-o", &path("with_rpath"), &path("ask.c"), "-Wl,-rpath,$ORIGIN"][..], &library].concat());
    succeeds(&[&["cc", "-o", &path("without"), &path("ask.c")][..], &library].concat());

    write("script", "#!/bin/sh\nhere=$(dirname \"$0\")\n\"$here/whole\" && cat \"$here/package/sub/data\"\n");
    std::fs::set_permissions(at.join("script"), PermissionsExt::from_mode(0o755)).unwrap();

    write("package/__init__.py", "from .sub import value\n");
    write("package/sub/__init__.py", "import pathlib\nvalue = pathlib.Path(__file__).with_name('data').read_text()\n");
    write("package/sub/data", "data\n");
    let make = "import sqlite3, sys, zipfile\n\
        at = sys.argv[1]\n\
        with zipfile.ZipFile(at + '/packed.zip', 'w', zipfile.ZIP_DEFLATED) as archive:\n\
        \x20 archive.writestr('packed.py', 'value = 7')\n\
        for name, mode in ('plain', 'delete'), ('log', 'wal'):\n\
        \x20 base = sqlite3.connect(f'{at}/{name}.db')\n\
        \x20 base.execute(f'pragma journal_mode={mode}')\n\
        \x20 base.execute('create table t (n integer primary key, text)')\n\
        \x20 base.executemany('insert into t values (?, ?)', ((n, 'row ' * 20) for n in range(5000)))\n\
        \x20 base.commit()\n\
        \x20 base.close()\n";
    succeeds(&["python3", "-c", make, at.to_str().unwrap()]);

    let git = |words: &[&str]| succeeds(&[&GIT[..], &["-C", at.to_str().unwrap()], words].concat());
    git(&["init", "--quiet", "work"]);
    write("work/file", "kept\n");
    git(&["-C", "work", "add", "file"]);
    git(&["-C", "work", "commit", "--quiet", "--message", "the first"]);
    git(&["clone", "--quiet", "--bare", "work", "bare.git"]);
    git(&["-C", "bare.git", "gc", "--quiet"]);
}

#[test]
fn what_is_shown_runs_where_it_is() {
    let site = Site::new();
    outputs(&site.world.path("outputs"));
    site.put("outputs", "outputs");
    for point in site.both() {
        let out = latest(&point, "outputs");
        let at = |path: &str| out.join(path).to_str().unwrap().to_owned();
        let says = |words: &[&str]| succeeds(words).out();

        assert_eq!(says(&[&at("whole")]), "42\n");
        assert_eq!(says(&[&at("with_rpath")]), "42\n");
        assert_eq!(says(&["env", &format!("LD_LIBRARY_PATH={}", at("")), &at("without")]), "42\n");
        started(&[&at("without")]).wait().code(127).says(&["libanswer.so"]);
        assert_eq!(says(&[&at("script")]), "42\ndata\n");
        // As somebody who owns nothing of it.
        assert_eq!(says(&["setpriv", "--reuid=65534", "--clear-groups", &at("with_rpath")]), "42\n");
        // What cannot be run is not.
        let refused = started(&["env", &at("answer.c")]).wait().code(126);
        assert!(refused.err().contains("Permission denied"), "{}", refused.err());

        let python =
            |code: &str| says(&["env", &format!("PYTHONPATH={}:{}", at(""), at("packed.zip")), "python3", "-c", code]);
        assert_eq!(python("import package; print(package.value, end='')"), "data\n");
        assert_eq!(python("import packed; print(packed.value)"), "7\n");
        assert!(!out.join("package/__pycache__").exists());

        let rows = |name: &str, how: &str| {
            let code = format!(
                "import sqlite3\n\
                 base = sqlite3.connect('file:{}?{how}', uri=True)\n\
                 print(base.execute('select count(*), sum(n) from t').fetchone(), base.execute('pragma integrity_check').fetchone())\n\
                 try: base.execute('delete from t')\n\
                 except sqlite3.OperationalError as error: print(error)\n",
                at(name)
            );
            says(&["python3", "-c", &code])
        };
        let right = "(5000, 12497500) ('ok',)\nattempt to write a readonly database\n";
        assert_eq!(rows("plain.db", "mode=ro"), right);
        assert_eq!(rows("plain.db", "immutable=1"), right);
        // Its log would have to be made even for who only reads.
        assert_eq!(rows("log.db", "immutable=1"), right);

        let git = |words: &[&str]| says(&[&GIT[..], &["-C", &at("bare.git")], words].concat());
        assert_eq!(git(&["log", "--format=%s"]), "the first\n");
        assert_eq!(git(&["show", "HEAD:file"]), "kept\n");
        git(&["fsck", "--strict", "--no-progress"]);
        let clone = site.path("clone");
        git(&["clone", "--quiet", "--no-hardlinks", ".", clone.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(clone.join("file")).unwrap(), "kept\n");
        std::fs::remove_dir_all(&clone).unwrap();
    }
}
