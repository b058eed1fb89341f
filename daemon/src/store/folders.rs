//! What the mounted view asks: names as a hierarchy, and the folders of a name.

use provender_core::batch::Table;
use provender_core::name::{Name, Space};
use provender_core::{Execution, Timestamp, rows};
use provender_proto::rows as values;

use super::{Store, StoreError};
use crate::meta::Scan;

impl Store {
    /// The parts that follow `prefix` in names with successes, sorted, after one of them; whether there may be more.
    pub async fn name_children(
        &self,
        space: &Space,
        prefix: Option<&Name>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, bool), StoreError> {
        let base = rows::name_prefix(space, &prefix.map_or(String::new(), |prefix| format!("{prefix}/")));
        // Beyond all that lies below a part: names are UTF-8, which has no byte 0xff.
        let beyond = |part: &str| [&base[..], part.as_bytes(), b"\0\xff"].concat().into();
        let mut scan = Scan { after: after.map(beyond), limit: 1_000, ..Scan::prefix(Table::Name, base.clone()) };
        let mut parts: Vec<String> = Vec::new();
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            for (key, row) in &page.rows {
                let part = key[base.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
                let part = String::from_utf8_lossy(part);
                let has_success = || values::name_from(row.value.clone()).map_err(StoreError::row(&part));
                if parts.last().is_some_and(|last| *last == part) || has_success()?.latest.is_none() {
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

    /// When the newest success of a name was committed, or, where only names below it have any, of the first of those.
    pub async fn newest_below(&self, space: &Space, name: &Name) -> Result<Option<Timestamp>, StoreError> {
        let mut name = name.clone();
        loop {
            if let Some((execution, _)) = self.latest_folder(space, &name).await? {
                return Ok(execution.ended);
            }
            let (below, _) = self.name_children(space, Some(&name), None, 1).await?;
            match below.first().and_then(|part| Name::new(format!("{name}/{part}")).ok()) {
                Some(next) => name = next,
                None => return Ok(None),
            }
        }
    }

    /// The folders of exactly this name, sorted, after one of them; whether there may be more.
    pub async fn folders(
        &self,
        space: &Space,
        name: &Name,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, bool), StoreError> {
        let after = after.map(|folder| rows::folder(space, Table::Folder, name, folder).key);
        let scan = Scan { after, limit, ..Scan::prefix(Table::Folder, rows::by_name_prefix(space, name)) };
        let page = self.inner.meta.scan(&scan).await?;
        let folders = page.rows.iter().filter_map(|(key, _)| rows::parse_folder(space, name, key));
        Ok((folders.collect(), page.more))
    }

    /// The execution that stands in a folder of a name.
    pub async fn in_folder(&self, space: &Space, name: &Name, folder: &str) -> Result<Option<Execution>, StoreError> {
        let row = self.inner.meta.get(&[rows::folder(space, Table::Folder, name, folder)]).await?.pop().flatten();
        let id = row.and_then(|row| rows::trailing_execution(&row.value));
        let Some(id) = id else { return Ok(None) };
        Ok(self.executions(space, &[id]).await?.remove(&id))
    }

    /// The execution that `latest` of a name means, and its folder there.
    pub async fn latest_folder(&self, space: &Space, name: &Name) -> Result<Option<(Execution, String)>, StoreError> {
        let Some(id) = self.latest(space, name).await? else { return Ok(None) };
        let Some(execution) = self.executions(space, &[id]).await?.remove(&id) else { return Ok(None) };
        let listed = rows::name_record(space, name, execution.ended.unwrap_or_default(), id);
        let row = self.inner.meta.get(&[listed]).await?.pop().flatten();
        Ok(row.and_then(|row| String::from_utf8(row.value.to_vec()).ok()).map(|folder| (execution, folder)))
    }
}
