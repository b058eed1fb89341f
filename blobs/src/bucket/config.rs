//! Which bucket, and how it is reached.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStoreScheme, RetryConfig};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::packer::Packer;
use super::packs::{IN_MEMORY, Often};
use super::requests::{Counting, Requests};
use super::staged::OF_ALL;
use super::{Client, Store};
use crate::recent::Recent;
use crate::{BlobError, StoreId};

/// How long one request is tried.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection may take, and how long it may be silent, as it is while a part goes up over a slow line.
const CONNECT: Duration = Duration::from_secs(5);
const STALL: Duration = Duration::from_secs(60);

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketConfig {
    /// `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`.
    pub url: String,
    /// By `object_store`'s names, such as `endpoint`, `region` and `allow_http`. What is not here comes from the environment
    /// (`AWS_ACCESS_KEY_ID` and so on), or from the machine's role.
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub options: Settings,
}

/// Names and values, of which some are secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(pub BTreeMap<String, String>);

impl Settings {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl BucketConfig {
    /// A client of it, which has not asked anything yet; its id is none's.
    pub(super) fn connect(&self) -> Result<Store, BlobError> {
        let wrong = |why: String| BlobError::Unavailable { store: self.url.clone(), why };
        let refused = |error: object_store::Error| wrong(error.to_string());
        let other = || {
            wrong(
                "its URL is of another kind: it takes s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
                    .into(),
            )
        };
        let url = self.url.parse().map_err(|error| wrong(format!("{:?} is no URL: {error}", self.url)))?;
        let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|_| other())?;
        let requests = Arc::new(Requests::default());
        let (counting, retry) = (Counting(requests.clone()), retry());
        // Their builders are alike, but have no trait in common.
        macro_rules! client {
            ($Builder:ident, $Key:ident) => {{
                let own = |key: &str| {
                    Ok(match $Key::from_str(key)? {
                        $Key::Client(key) => Key::Client(key),
                        key => Key::Own(key),
                    })
                };
                let (own, client) = self.settings(own).map_err(refused)?;
                let builder = $Builder::from_env().with_url(&self.url).with_retry(retry).with_client_options(client);
                let builder = own.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
                Box::new(builder.with_http_connector(counting).build().map_err(refused)?)
            }};
        }
        let client: Box<dyn Client> = match scheme {
            ObjectStoreScheme::AmazonS3 => client!(AmazonS3Builder, AmazonS3ConfigKey),
            ObjectStoreScheme::GoogleCloudStorage => client!(GoogleCloudStorageBuilder, GoogleConfigKey),
            ObjectStoreScheme::MicrosoftAzure => client!(MicrosoftAzureBuilder, AzureConfigKey),
            _ => return Err(other()),
        };
        let (id, sending) = (StoreId([0; 16]), Arc::new(Semaphore::new(OF_ALL)));
        let (packer, recent, often) = (Packer::default(), Recent::new(IN_MEMORY), Often::default());
        Ok(Store { client, prefix, url: self.url.clone(), id, requests, sending, packer, recent, often })
    }

    /// The options, told apart.
    fn settings<K>(
        &self,
        key: impl Fn(&str) -> object_store::Result<Key<K>>,
    ) -> object_store::Result<(Vec<(K, String)>, ClientOptions)> {
        // A whole request may take long; none may stand still.
        let client = ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT);
        let mut client = client.with_config(ClientConfigKey::ReadTimeout, format!("{} s", STALL.as_secs()));
        let mut own = Vec::new();
        for (name, value) in &self.options.0 {
            match key(name)? {
                Key::Client(key) => client = client.with_config(key, value),
                Key::Own(key) => own.push((key, value.clone())),
            }
        }
        Ok((own, client))
    }
}

/// What an option is for.
enum Key<K> {
    Client(ClientConfigKey),
    Own(K),
}

/// Exponential, with jitter.
fn retry() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5), base: 2.0 };
    RetryConfig { backoff, max_retries: 20, retry_timeout: PATIENCE }
}
