//! What the mounted view asks of names: names as a hierarchy, the folders of a name, keys by scheme.

use provender_core::batch::Table;
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::provenance::{Branch, Place};
use provender_core::transition::Known;
use provender_core::{Execution, Timestamp, rows};
use provender_proto::rows as values;

use super::{Store, StoreError};
use crate::meta::Scan;

/// The most schemes that are listed.
const MAX_SCHEMES: usize = 10_000;

impl Store {
    /// The parts that follow `prefix` in names with folders, sorted, after one of them; whether there may be more.
    pub async fn children(
        &self,
        space: &Space,
        branch: Branch,
        prefix: Option<&Name>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, bool), StoreError> {
        let base = rows::name_prefix(space, &prefix.map_or(String::new(), |prefix| format!("{prefix}/")));
        // Beyond all that lies below a part: names are UTF-8, which has no byte 0xff.
        let beyond = |part: &str| [&base[..], part.as_bytes(), b"\0\xff"].concat().into();
        let mut scan = Scan { after: after.map(beyond), limit: 1_000, ..Scan::prefix(names(branch), base.clone()) };
        let mut parts: Vec<String> = Vec::new();
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            for (key, row) in &page.rows {
                let part = key[base.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
                let part = String::from_utf8_lossy(part);
                if parts.last().is_some_and(|last| *last == part) {
                    continue;
                }
                let shown = match branch {
                    Branch::Tasks => {
                        values::name_from(row.value.clone()).map_err(StoreError::row(&part))?.latest.is_some()
                    }
                    Branch::Failed => true,
                };
                if !shown {
                    continue;
                }
                if parts.len() == limit {
                    return Ok((parts, true));
                }
                parts.push(part.into_owned());
            }
            // A page that ends within what lies below a part that is listed goes on beyond it.
            let last = page.rows.last().map(|(key, _)| key.clone());
            scan.after = match (parts.last(), last) {
                (Some(part), Some(last)) => Some(beyond(part)).max(Some(last)),
                (_, last) => last,
            };
            if !page.more {
                return Ok((parts, false));
            }
        }
    }

    /// When the newest folder of a name was made, or, where only names below it have any, that of the first of those.
    pub async fn changed(&self, space: &Space, branch: Branch, name: &Name) -> Result<Option<Timestamp>, StoreError> {
        if let Some(at) = self.last_of(space, branch, name).await? {
            return Ok(Some(at));
        }
        // All that lies below it stands behind it, so the first with folders is found in one pass.
        let mut scan = Scan::prefix(names(branch), rows::name_prefix(space, &format!("{name}/")));
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            for (key, _) in &page.rows {
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is no name".into() };
                let below = rows::parse_name(space, key).ok_or_else(damaged)?;
                if let Some(at) = self.last_of(space, branch, &below).await? {
                    return Ok(Some(at));
                }
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(None);
            }
        }
    }

    /// When the newest folder of exactly this name was made.
    async fn last_of(&self, space: &Space, branch: Branch, name: &Name) -> Result<Option<Timestamp>, StoreError> {
        match branch {
            Branch::Tasks => Ok(self.newest_record(space, name).await?.and_then(|execution| execution.ended)),
            Branch::Failed => self.last_failed(space, name).await,
        }
    }

    async fn last_failed(&self, space: &Space, name: &Name) -> Result<Option<Timestamp>, StoreError> {
        let row = self.inner.meta.get(&[rows::failed_name(space, name)]).await?.pop().flatten();
        row.map(|row| values::failed_name_from(row.value)).transpose().map_err(StoreError::row(name))
    }

    /// The folders of exactly this name, sorted, after one of them; whether there may be more.
    pub async fn folders(
        &self,
        space: &Space,
        branch: Branch,
        name: &Name,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, bool), StoreError> {
        let table = folders(branch);
        let after = after.map(|folder| rows::folder(space, table, name, folder).key);
        let scan = Scan { after, limit, ..Scan::prefix(table, rows::by_name_prefix(space, name)) };
        let page = self.inner.meta.scan(&scan).await?;
        let folders = page.rows.iter().filter_map(|(key, _)| rows::parse_folder(space, name, key));
        Ok((folders.collect(), page.more))
    }

    /// The execution that stands in a folder of a name. It may have been made under another name.
    pub async fn in_folder(
        &self,
        space: &Space,
        branch: Branch,
        name: &Name,
        folder: &str,
    ) -> Result<Option<Execution>, StoreError> {
        // No folder is longer; a longer row could not be asked for.
        if folder.len() > provender_core::view::MAX_COMPONENT {
            return Ok(None);
        }
        let row = rows::folder(space, folders(branch), name, folder);
        let row = self.inner.meta.get(&[row]).await?.pop().flatten();
        let id = row.and_then(|row| rows::trailing_execution(&row.value));
        let Some(id) = id else { return Ok(None) };
        Ok(self.executions(space, &[id]).await?.remove(&id))
    }

    /// The execution that `latest` of a name means, and its folder there.
    pub async fn latest_folder(&self, space: &Space, name: &Name) -> Result<Option<(Execution, String)>, StoreError> {
        let Some(execution) = self.latest(space, name).await? else { return Ok(None) };
        let listed = rows::name_record(space, name, execution.ended.unwrap_or_default(), execution.id);
        let row = self.inner.meta.get(&[listed]).await?.pop().flatten();
        Ok(row.and_then(|row| String::from_utf8(row.value.to_vec()).ok()).map(|folder| (execution, folder)))
    }

    /// The schemes of keys, sorted; at most 10,000. Costs as many reads as there are schemes, whatever the number of keys.
    pub async fn schemes(&self, space: &Space) -> Result<Vec<String>, StoreError> {
        let mut scan = Scan { limit: 1, ..Scan::prefix(Table::Key, rows::keys_prefix(space, None)) };
        let mut schemes = Vec::new();
        while schemes.len() < MAX_SCHEMES {
            let Some((row, _)) = self.inner.meta.scan(&scan).await?.rows.pop() else { break };
            let damaged = || StoreError::Row { what: format!("{row:?}"), why: "it is no key".into() };
            let (_, key) = rows::parse_key(&row).ok_or_else(damaged)?;
            scan.after = Some(rows::beyond_scheme(space, key.scheme()));
            schemes.push(key.scheme().to_owned());
        }
        // Rows are sorted with the colon, which comes after the hyphen.
        schemes.sort_unstable();
        Ok(schemes)
    }

    /// The ids of a scheme's SUCCEEDED keys, sorted, after one of them; whether there may be more.
    pub async fn keys(
        &self,
        space: &Space,
        scheme: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, bool), StoreError> {
        if !provender_core::key::is_scheme(scheme) {
            return Ok((Vec::new(), false));
        }
        let base = rows::keys_prefix(space, Some(scheme));
        let after = after.map(|id| [&base[..], id.as_bytes()].concat().into());
        let mut scan = Scan { after, ..Scan::prefix(Table::Key, base.clone()) };
        let mut ids = Vec::new();
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            let (mut keys, mut known) = (Vec::with_capacity(page.rows.len()), Vec::with_capacity(page.rows.len()));
            for (key, row) in page.rows {
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is no key".into() };
                let row = values::key_from(row.value).map_err(StoreError::row(format!("{key:?}")))?;
                keys.push(rows::parse_key(&key).ok_or_else(damaged)?.1);
                known.push(Known { row, lease: None });
            }
            let lost = self.lost_head().await?;
            self.test_records(space, &keys, &mut known, lost).await?;
            for (key, _) in keys.iter().zip(&known).filter(|(_, known)| known.answer().is_some()) {
                if ids.len() == limit {
                    return Ok((ids, true));
                }
                ids.push(key.id().to_owned());
            }
            if !page.more {
                return Ok((ids, false));
            }
        }
    }

    /// Where the record of a SUCCEEDED key stands.
    pub async fn record(&self, space: &Space, key: &TaskKey) -> Result<Option<Place>, StoreError> {
        let known = self.known_of(space, std::slice::from_ref(key)).await?.pop();
        let Some(id) = known.as_ref().and_then(|known| known.answer()).map(|record| record.execution) else {
            return Ok(None);
        };
        Ok(self.executions(space, &[id]).await?.get(&id).and_then(Place::of))
    }
}

/// Where the names of a branch stand.
fn names(branch: Branch) -> Table {
    match branch {
        Branch::Tasks => Table::Name,
        Branch::Failed => Table::FailedName,
    }
}

/// Where the folders of a branch stand.
fn folders(branch: Branch) -> Table {
    match branch {
        Branch::Tasks => Table::Folder,
        Branch::Failed => Table::FailedFolder,
    }
}

#[cfg(test)]
mod tests;
