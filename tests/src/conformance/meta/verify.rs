//! Verifying what an engine keeps beside the rows.

use super::{Storage, batch, fed, name};

pub async fn what_is_beside_the_rows_is_verified_page_by_page(storage: &dyn Storage) {
    const MANY: usize = 25_000;
    let meta = storage.open().await;
    let mut many = batch();
    (0..MANY).for_each(|n| _ = many.put(fed(name(n)), "x"));
    meta.commit(many).await.unwrap();
    let (mut entries, mut pages, mut next) = (0, 0, None);
    loop {
        let page = meta.verify(next).await.unwrap();
        (entries, pages) = (entries + page.entries, pages + 1);
        assert!(page.entries <= 10_000 && pages < 100, "{} entries, {pages} pages", page.entries);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    // An engine looks at its feed, or leaves all of it to whoever its disk is.
    assert!(entries == 0 || entries > MANY as u64, "{entries} entries");
}
