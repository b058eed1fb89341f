//! Daemons over one store, each with users of its own: one on RocksDB, or two on one PostgreSQL and one blob folder.
//!
//! It knows how the daemons share their storage, and nothing of what is asked of them.

use std::path::{Path, PathBuf};

use provender_daemon::meta::MetaConfig;
use provender_tests::daemon::Daemon;
use provender_tests::postgres;
use provender_tests::provender::Provender;
use serde_json::json;
use tempfile::TempDir;

use crate::world::folder;

/// Daemons with one store, and users of each. The daemons go before the folder does, and PostgreSQL goes last.
pub(crate) struct Cluster {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) users: Vec<Provender>,
    folder: TempDir,
    postgres: Option<postgres::Server>,
}

impl Cluster {
    /// Users who each work in a folder of their own, by turns with each of the daemons.
    fn new(daemons: Vec<Daemon>, folder: TempDir, postgres: Option<postgres::Server>, users: usize) -> Cluster {
        let user = |n: usize| {
            let (home, work) = (folder.path().join("h"), folder.path().join(format!("u{n}")));
            std::fs::create_dir(&work).unwrap();
            Provender::new(&home, &work, &daemons[n % daemons.len()].remote())
        };
        let users = (0..users).map(user).collect();
        Cluster { users, daemons, folder, postgres }
    }

    /// One daemon as it comes: metadata in RocksDB.
    pub(crate) fn one(users: usize) -> Cluster {
        Cluster::one_with(users, &[], &[])
    }

    /// The same with these flags and this in its environment.
    pub(crate) fn one_with(users: usize, flags: &[&str], env: &[(&str, &str)]) -> Cluster {
        let folder = folder();
        let daemon = Daemon::start_with(&folder.path().join("d"), flags, env);
        Cluster::new(vec![daemon], folder, None, users)
    }

    /// Two daemons with nothing of their own.
    pub(crate) fn two_on_postgres(users: usize) -> Cluster {
        Cluster::two_on_postgres_with(users, &[])
    }

    /// The same with this in their environment.
    pub(crate) fn two_on_postgres_with(users: usize, env: &[(&str, &str)]) -> Cluster {
        Cluster::two_on_postgres_configured(users, env, "")
    }

    /// The same with this in their configuration (TOML).
    pub(crate) fn two_on_postgres_configured(users: usize, env: &[(&str, &str)], more: &str) -> Cluster {
        let folder = folder();
        let blobs = format!("[blobs]\nbackend = \"disk\"\ndir = \"{}\"\n{more}", folder.path().join("blobs").display());
        Cluster::two_on_postgres_in(folder, users, env, &blobs)
    }

    /// The same with their blobs in a bucket, as that part of their configuration says.
    pub(crate) fn two_on_postgres_in_a_bucket(users: usize, blobs: &str) -> Cluster {
        Cluster::two_on_postgres_in(folder(), users, &[], blobs)
    }

    fn two_on_postgres_in(folder: TempDir, users: usize, env: &[(&str, &str)], more: &str) -> Cluster {
        let postgres = postgres::Server::start();
        let config = format!("[meta]\nengine = \"postgres\"\nurl = \"{}\"\n{more}", postgres.url());
        let file = folder.path().join("provenderd.toml");
        std::fs::write(&file, config).unwrap();
        let flags = ["--config", file.to_str().unwrap()];
        let start = |name: &str| Daemon::start_with(&folder.path().join(name), &flags, env);
        Cluster::new(vec![start("d1"), start("d2")], folder, Some(postgres), users)
    }

    /// A user more, in a folder that is made.
    pub(crate) fn user_at(&self, work: &Path, daemon: usize) -> Provender {
        std::fs::create_dir_all(work).unwrap();
        Provender::new(&self.shared("h"), work, &self.daemons[daemon].remote())
    }

    /// Whose word `n` goes to.
    pub(crate) fn remote(&self, n: usize) -> String {
        self.daemons[n % self.daemons.len()].remote()
    }

    /// A file that all see.
    pub(crate) fn shared(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// All rows from scratch, of daemons that are stopped first: nothing of what collection keeps is wrong.
    pub(crate) async fn audit(&mut self) {
        self.daemons.iter_mut().for_each(Daemon::stop);
        let config = json!({"engine": "postgres", "url": self.postgres().url()});
        let config: MetaConfig = serde_json::from_value(config).unwrap();
        let blobs = provender_blobs::BlobsConfig::Disk { dir: self.shared("blobs") };
        crate::churn::audit(&config, &self.shared("d1"), &blobs).await;
    }

    /// Their PostgreSQL, if they have one.
    pub(crate) fn postgres(&self) -> &postgres::Server {
        self.postgres.as_ref().expect("a cluster on PostgreSQL")
    }
}
