//! The union of two listings, in key order, page by page.
//!
//! Each page of the primary bounds a page of the union: the local entries up to its last one are
//! merged in. Where the local side alone fills a page, the union ends with that side's page and
//! the primary's is asked for again. So the primary's pages cost one request each as long as its
//! entries lie at least as dense as the local ones.

use serde::{Deserialize, Serialize};

use super::super::{
    ListPage, ListRequest, ListedObject, ObjectStore, Origin, StoreError, StoreResult, local,
};
use super::FallbackStore;

/// The continuation token of the union.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Token {
    /// Where the primary goes on.
    primary: Primary,
    /// All entries up to this one were given.
    after: String,
}

#[derive(Debug, Default, Deserialize, Serialize, PartialEq)]
enum Primary {
    #[default]
    FirstPage,
    Page(String),
    Done,
    /// It failed on an earlier page: what follows is local only.
    Unreachable,
}

impl FallbackStore {
    pub(super) async fn union(&self, request: ListRequest) -> StoreResult<ListPage> {
        let mut token: Token = match &request.continuation {
            Some(text) => serde_json::from_str(text)
                .map_err(|_| StoreError::Refused(format!("no token of ours: {text:?}")))?,
            None => Token {
                after: request.start_after.clone().unwrap_or_default(),
                ..Token::default()
            },
        };
        let primary = self.primary_page(&request, &mut token).await?;
        let bound = primary.next.is_some().then(|| last_entry(&primary));
        // A page without entries that is not the last bounds nothing but the past.
        let bound = bound.map(|last| last.unwrap_or_else(|| token.after.clone()));
        let local = self.local_page(&request, &token.after).await?;
        let (page, end) = merge(primary, local, &token.after, bound, request.max_keys);
        let incomplete = token.primary == Primary::Unreachable;
        let next = end.map(|end| end.next(token));
        Ok(ListPage {
            objects: page.objects,
            prefixes: page.prefixes,
            next: next.and_then(|next| serde_json::to_string(&next).ok()),
            incomplete,
        })
    }

    async fn primary_page(
        &self,
        request: &ListRequest,
        token: &mut Token,
    ) -> StoreResult<ListPage> {
        let continuation = match &token.primary {
            Primary::FirstPage => None,
            Primary::Page(continuation) => Some(continuation.clone()),
            Primary::Done | Primary::Unreachable => return Ok(ListPage::default()),
        };
        let request = ListRequest {
            continuation,
            ..request.clone()
        };
        match self.primary.list(request).await {
            Err(StoreError::Unavailable { message, .. }) => {
                log::debug!("listing the local copies only: {message}");
                token.primary = Primary::Unreachable;
                Ok(ListPage::default())
            }
            answer => answer,
        }
    }

    /// Returns the local entries that are shown; `next` if there may be more.
    async fn local_page(&self, request: &ListRequest, after: &str) -> StoreResult<ListPage> {
        let request = ListRequest {
            continuation: (!after.is_empty()).then(|| local::continuation_after(after)),
            ..request.clone()
        };
        let mut page = self.local.list(request).await?;
        page.objects
            .retain(|object| !self.hidden.contains(&object.version.key));
        for object in &mut page.objects {
            object.origin = Origin::Fallback;
        }
        let mut prefixes = Vec::new();
        for prefix in page.prefixes {
            if !self.hidden.any_below(&prefix) || self.shows_any_below(&prefix).await? {
                prefixes.push(prefix);
            }
        }
        page.prefixes = prefixes;
        Ok(page)
    }

    /// Whether a local folder holds anything that is not hidden.
    async fn shows_any_below(&self, prefix: &str) -> StoreResult<bool> {
        let mut request = ListRequest {
            prefix: prefix.to_owned(),
            ..ListRequest::default()
        };
        loop {
            let page = self.local.list(request.clone()).await?;
            let shown = |object: &ListedObject| !self.hidden.contains(&object.version.key);
            if page.objects.iter().any(shown) {
                return Ok(true);
            }
            if page.next.is_none() {
                return Ok(false);
            }
            request.continuation = page.next;
        }
    }
}

/// Where a page of the union ended and what follows.
#[derive(Debug, PartialEq)]
struct End {
    after: String,
    /// Where the primary goes on; `None` if it must give its page again.
    primary: Option<Primary>,
}

impl End {
    fn next(self, token: Token) -> Token {
        let primary = match (token.primary, self.primary) {
            (Primary::Unreachable, _) => Primary::Unreachable,
            (same, None) => same,
            (_, Some(primary)) => primary,
        };
        Token {
            primary,
            after: self.after,
        }
    }
}

/// Merges one page of each side behind `after`, up to `bound` if there is one.
fn merge(
    primary: ListPage,
    local: ListPage,
    after: &str,
    bound: Option<String>,
    max_keys: Option<u16>,
) -> (ListPage, Option<End>) {
    let primary_next = primary.next.clone();
    let local_last = local_end(&local);
    let local_ends_first = match (&local_last, &bound) {
        (Some(local), Some(bound)) => local < bound,
        (local, _) => local.is_some(),
    };
    let mut end = match (local_ends_first, bound) {
        // Beyond its page the local side is not known yet.
        (true, bound) => {
            let after = local_last.unwrap_or_default();
            let all_given = bound.is_none() && last_entry(&primary).is_none_or(|e| e <= after);
            Some(End {
                after,
                primary: all_given.then_some(Primary::Done),
            })
        }
        (false, Some(bound)) => Some(End {
            after: bound,
            primary: primary_next.map(Primary::Page),
        }),
        (false, None) => None,
    };
    let mut entries = sorted(primary, local);
    entries.retain(|entry| {
        entry.name() > after && end.as_ref().is_none_or(|end| *entry.name() <= *end.after)
    });
    let most = usize::from(max_keys.unwrap_or(u16::MAX).max(1));
    if entries.len() > most {
        entries.truncate(most);
        end = entries.last().map(|last| End {
            after: last.name().to_owned(),
            primary: None,
        });
    }
    let mut page = ListPage::default();
    for entry in entries {
        match entry {
            Entry::Object(object) => page.objects.push(object),
            Entry::Prefix(prefix) => page.prefixes.push(prefix),
        }
    }
    (page, end)
}

enum Entry {
    Object(ListedObject),
    Prefix(String),
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Entry::Object(object) => object.version.key.as_str(),
            Entry::Prefix(prefix) => prefix,
        }
    }
}

/// Returns the entries of both pages in order; of two with one name the primary's.
fn sorted(primary: ListPage, local: ListPage) -> Vec<Entry> {
    let of = |page: ListPage| {
        let objects = page.objects.into_iter().map(Entry::Object);
        objects.chain(page.prefixes.into_iter().map(Entry::Prefix))
    };
    let mut entries: Vec<Entry> = of(primary).chain(of(local)).collect();
    // Stable: the primary's entries come first among equals.
    entries.sort_by(|a, b| a.name().cmp(b.name()));
    entries.dedup_by(|second, first| first.name() == second.name());
    entries
}

fn last_entry(page: &ListPage) -> Option<String> {
    let object = page
        .objects
        .last()
        .map(|object| object.version.key.as_str());
    let prefix = page.prefixes.last().map(String::as_str);
    object.max(prefix).map(str::to_owned)
}

/// Returns the last entry that a page of the local side covers, if there are more behind it.
fn local_end(page: &ListPage) -> Option<String> {
    let next = page.next.as_deref()?;
    Some(local::entry_before(next).to_owned())
}
