//! The documents say what is so, as far as a program can tell.

#![allow(clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use provender_daemon::config::{Config, Flags};
use provender_daemon::store::Collection;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder of the checkout whose names end like this.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// The words in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of the tables' lines that follow a heading.
fn table<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let section = document.split(&format!("\n## {heading}\n")).nth(1).expect("the heading is there");
    let section = section.split("\n## ").next().expect("a first part");
    let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_configuration_is_documented_whole() {
    let document = read("docs/configuration.md");
    let example = document.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("provenderd.toml");
    std::fs::write(&path, example).expect("written");
    let flags = Flags { config: Some(path), ..Flags::default() };
    // Without `..`: who adds a key, documents it.
    let Config {
        data: _,
        listen,
        insecure: _,
        socket_group,
        mount,
        mount_allow_other,
        mount_passthrough: _,
        mount_cache_bytes: _,
        metrics_listen,
        log_format: _,
        log: _,
        drain: _,
        keep_uploads: _,
        tls,
        tokens_file,
        meta: _,
        blobs: _,
        aliases,
        compression,
        scrub: _,
        collection,
    } = Config::load(flags).expect("the example is valid");
    let set =
        listen.is_some() && socket_group.is_some() && mount.is_some() && mount_allow_other && metrics_listen.is_some();
    assert!(set && tls.is_some_and(|tls| tls.client_ca.is_some()) && tokens_file.is_some() && !aliases.is_empty());
    assert!(compression.is_some());
    // Without `..` as well.
    let Collection {
        protect: _,
        rules,
        quota,
        quota_part: _,
        reserve,
        reserve_part: _,
        high: _,
        low: _,
        every: _,
        rows_per_second: _,
        tombstones: _,
    } = collection;
    let kept = rules.of("ci/test").expect("the example has one");
    assert!(quota.is_some() && reserve.is_some() && kept.latest.is_some() && kept.used_within.is_some());

    let listed: BTreeSet<_> =
        table(&document, "All keys").iter().flat_map(|row| quoted(row[0])).map(str::to_owned).collect();
    let mut section = String::new();
    for line in example.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_matches(['[', ']']));
        } else if let Some((key, _)) = line.split_once(" = ") {
            assert!(listed.contains(&format!("{section}{key}")), "{section}{key} is not in the table");
        }
    }
}

#[test]
fn tests_that_hold_invariants_exist() {
    let sources: String = files(&root(), ".rs").iter().map(read).collect();
    let document = read("ARCHITECTURE.md");
    let rows = table(&document, "Invariants");
    assert_eq!(rows.len(), 7);
    for row in rows {
        let tests: Vec<_> = quoted(row[2]).collect();
        assert!(!tests.is_empty() || row[2].contains("(issue "), "{} is held by nothing", row[1]);
        for test in tests {
            assert!(sources.contains(&format!("fn {test}(")), "there is no test {test}");
        }
    }
}

#[test]
fn arrows_are_as_drawn() {
    let document = read("ARCHITECTURE.md");
    for row in table(&document, "Arrows") {
        let package = row[0].trim_matches('`');
        let drawn: BTreeSet<_> = quoted(row[1]).map(|used| format!("provender-{used}")).collect();
        let manifest = read(format!("{package}/Cargo.toml"));
        let dependencies = manifest.split("[dependencies]").nth(1).expect("dependencies").split("\n[").next();
        let lines = dependencies.unwrap_or_default().lines().filter(|line| line.starts_with("provender-"));
        let real: BTreeSet<_> =
            lines.filter_map(|line| line.split(['.', ' ', '=']).next()).map(str::to_owned).collect();
        assert_eq!(drawn, real, "what {package} uses");
    }
}

#[test]
fn links_and_named_files_exist() {
    for path in files(&root(), ".md") {
        let (text, folder) = (read(&path), path.parent().expect("a folder").to_owned());
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            assert!(target.contains("://") || folder.join(target).exists(), "{}: {link}", path.display());
        }
    }
    let (architecture, contributing) = (read("ARCHITECTURE.md"), read("CONTRIBUTING.md"));
    let first_cells = architecture.lines().chain(contributing.lines()).filter(|line| line.starts_with('|'));
    for word in first_cells.flat_map(quoted).filter(|word| word.contains('/') && !word.contains(['{', '*', ' '])) {
        assert!(root().join(word).exists(), "{word} is named and does not exist");
    }
}
