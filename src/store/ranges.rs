//! Listing a large folder in several key ranges at once.
//!
//! A listing is a chain of pages, each known only when the one before is here. Where there are many,
//! the range of names that is left is cut in two, again and again, and each part is its own chain.
//! Where to cut is a guess from the characters that the names have; a bad guess costs a request
//! that finds nothing, never a name.

use std::borrow::Cow;
use std::collections::BTreeSet;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use unicode_normalization::UnicodeNormalization;

use super::{ListPage, ListRequest, StoreError, StoreResult};

/// A folder of fewer pages is listed one after the other: cutting costs requests.
const PLAIN_PAGES: usize = 4;
/// The most ranges at once.
const MOST_AT_ONCE: usize = 16;
/// How often a range may be cut before its next page: each cut may cost a request for nothing.
const CUTS_A_PAGE: u32 = 3;
/// How many characters of a name are looked at to find the middle of a range.
const DIGITS: usize = 16;

/// Lists a folder page by page, in no order across ranges. A name that the store sorts otherwise
/// than by its bytes may be given twice.
///
/// # Errors
/// The first error of a page ends it all.
pub async fn list_folder<F>(
    prefix: &str,
    list: impl Fn(ListRequest) -> F,
    mut take: impl FnMut(ListPage),
) -> StoreResult<()>
where
    F: Future<Output = StoreResult<ListPage>>,
{
    let mut ranges = Ranges::new(prefix);
    let mut under_way = FuturesUnordered::new();
    loop {
        while let Some((number, request)) = ranges.next() {
            let asked = list(request);
            under_way.push(async move { (number, asked.await) });
        }
        let Some((number, answer)) = under_way.next().await else {
            return Ok(());
        };
        take(ranges.arrived(number, answer)?);
    }
}

/// The names above `after`, up to and with `end`.
#[derive(Debug, Clone, Default)]
struct Range {
    after: Option<String>,
    end: Option<String>,
    continuation: Option<String>,
    /// How often what it is part of was cut; so about how narrow it is.
    cuts: u32,
    /// How often it may be cut yet. A range of which no page has come may hold nothing.
    may_cut: u32,
    under_way: bool,
    done: bool,
}

/// All ranges of one listing, and what has been seen of its names.
struct Ranges<'a> {
    prefix: &'a str,
    ranges: Vec<Range>,
    pages: usize,
    /// The characters of the names, for a guess how they are spread.
    alphabet: BTreeSet<u8>,
}

impl<'a> Ranges<'a> {
    fn new(prefix: &'a str) -> Ranges<'a> {
        Ranges {
            prefix,
            ranges: vec![Range::default()],
            pages: 0,
            alphabet: BTreeSet::new(),
        }
    }

    /// Returns the next request, with the number of its range; `None` while enough are under way.
    fn next(&mut self) -> Option<(usize, ListRequest)> {
        let waiting = |range: &Range| !range.under_way && !range.done;
        let number = match self.ranges.iter().position(waiting) {
            Some(number) => number,
            None => self.cut()?,
        };
        let range = &mut self.ranges[number];
        range.under_way = true;
        let start_after = match range.continuation {
            Some(_) => None,
            None => range.after.clone(),
        };
        let request = ListRequest {
            prefix: self.prefix.to_owned(),
            delimited: true,
            continuation: range.continuation.clone(),
            start_after,
            max_keys: None,
        };
        Some((number, request))
    }

    /// Cuts the widest range that can be cut; returns the number of its upper half.
    fn cut(&mut self) -> Option<usize> {
        let under_way = self.ranges.iter().filter(|range| range.under_way).count();
        let most = match self.pages < PLAIN_PAGES {
            true => 1,
            false => (self.pages / 2).min(MOST_AT_ONCE),
        };
        if under_way == 0 || under_way >= most {
            return None;
        }
        let mut open: Vec<usize> = (0..self.ranges.len()).collect();
        open.retain(|&number| self.ranges[number].under_way && self.ranges[number].may_cut > 0);
        open.sort_by_key(|&number| self.ranges[number].cuts);
        let (number, middle) = open
            .into_iter()
            .find_map(|number| Some((number, self.middle(&self.ranges[number])?)))?;
        let lower = &mut self.ranges[number];
        lower.cuts += 1;
        lower.may_cut -= 1;
        let upper = Range {
            after: Some(middle.clone()),
            end: lower.end.replace(middle),
            cuts: lower.cuts,
            ..Range::default()
        };
        self.ranges.push(upper);
        Some(self.ranges.len() - 1)
    }

    fn middle(&self, range: &Range) -> Option<String> {
        let below = |key: &'_ str| key.strip_prefix(self.prefix).map(str::to_owned);
        let after = below(range.after.as_deref()?)?;
        let end = match &range.end {
            Some(end) => Some(below(end)?),
            None => None,
        };
        let alphabet: Vec<u8> = self.alphabet.iter().copied().collect();
        let middle = between(&after, end.as_deref(), &alphabet)?;
        Some(format!("{}{middle}", self.prefix))
    }

    /// Takes in an answer; returns what of it belongs to the range.
    fn arrived(&mut self, number: usize, answer: StoreResult<ListPage>) -> StoreResult<ListPage> {
        let range = &mut self.ranges[number];
        range.under_way = false;
        let mut page = match answer {
            // A token may have expired; the last name leads on as well.
            Err(StoreError::Refused(_)) if range.continuation.take().is_some() => {
                return Ok(ListPage::default());
            }
            answer => answer?,
        };
        let (after, end) = (range.after.take(), range.end.as_deref());
        let is_new = |name: &str| after.as_deref().is_none_or(|after| is_above(name, after));
        let is_beyond = |name: &str| end.is_some_and(|end| is_beyond(name, end));
        let last = last_name(&page).map(str::to_owned);
        range.done = page.next.is_none() || last.as_deref().is_some_and(is_beyond);
        range.continuation = page.next.take();
        page.objects.retain(|object| {
            let name = object.version.key.as_str();
            is_new(name) && !is_beyond(name)
        });
        page.prefixes
            .retain(|name| is_new(name) && !is_beyond(name));
        range.after = last.or(after);
        range.may_cut = CUTS_A_PAGE;
        self.pages += usize::from(!page.objects.is_empty() || !page.prefixes.is_empty());
        self.learn(&page);
        Ok(page)
    }

    fn learn(&mut self, page: &ListPage) {
        let keys = page
            .objects
            .iter()
            .map(|object| object.version.key.as_str());
        for key in keys.chain(page.prefixes.iter().map(String::as_str)) {
            let name = key.strip_prefix(self.prefix).unwrap_or_default();
            let shown = name.bytes().filter(|byte| byte.is_ascii_graphic());
            self.alphabet.extend(shown.filter(|byte| *byte != b'/'));
        }
    }
}

/// Whether a name comes after another in whichever order the store has: R2 compares normal forms, a
/// disk bytes.
fn is_above(name: &str, other: &str) -> bool {
    name > other || *folded(name) > *folded(other)
}

/// Whether a name comes after another in both orders.
fn is_beyond(name: &str, end: &str) -> bool {
    name > end && *folded(name) > *folded(end)
}

fn folded(name: &str) -> Cow<'_, str> {
    match name.is_ascii() {
        true => Cow::Borrowed(name),
        false => Cow::Owned(name.nfc().collect()),
    }
}

fn last_name(page: &ListPage) -> Option<&str> {
    let object = page
        .objects
        .last()
        .map(|object| object.version.key.as_str());
    let prefix = page.prefixes.last().map(String::as_str);
    match (object, prefix) {
        (Some(object), Some(prefix)) if is_above(prefix, object) => Some(prefix),
        (object, prefix) => object.or(prefix),
    }
}

/// Returns a name about in the middle between two, as if all names of these characters were equally
/// likely; `None` if there is none.
fn between(low: &str, high: Option<&str>, alphabet: &[u8]) -> Option<String> {
    let same = |high: &str| {
        low.bytes()
            .zip(high.bytes())
            .take_while(|(a, b)| a == b)
            .count()
    };
    let common = high.map_or(0, same);
    let base = alphabet.len() as u128 + 1;
    let value = |name: &str| {
        let bytes = &name.as_bytes()[common..];
        let digit = |at| {
            let byte = bytes.get(at);
            byte.map_or(0, |byte| alphabet.partition_point(|known| known <= byte)) as u128
        };
        (0..DIGITS).fold(0, |value, at| value * base + digit(at))
    };
    let top = base.pow(DIGITS as u32) - 1;
    let (from, to) = (value(low), high.map_or(top, value));
    let middle = from + to.saturating_sub(from) / 2;
    let mut name = low.get(..common)?.to_owned();
    for place in (0..DIGITS as u32).rev() {
        let digit = (middle / base.pow(place) % base) as usize;
        let Some(at) = digit.checked_sub(1) else {
            break;
        };
        name.push(char::from(alphabet[at]));
    }
    (*name > *low && high.is_none_or(|high| *name < *high)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_lies_between() {
        let digits = b"0123456789";
        let middle = between("0", None, digits).unwrap();
        assert!(*middle > *"3" && *middle < *"6", "{middle}");
        let middle = between("take-1", Some("take-9"), digits).unwrap();
        assert!(*middle > *"take-1" && *middle < *"take-9", "{middle}");
        assert_eq!(between("a", Some("a"), digits), None);
        assert_eq!(between("9999999999999999", None, digits), None);
        assert_eq!(between("a", None, b""), None);
        assert_eq!(between("é", Some("è"), b"ab"), None);
    }

    #[test]
    fn a_few_pages_are_asked_for_one_after_the_other() {
        let mut ranges = Ranges::new("a/");
        for page in 0..PLAIN_PAGES {
            let (number, request) = ranges.next().expect("a request");
            assert!(ranges.next().is_none());
            assert_eq!(request.start_after, None);
            let answer = ListPage {
                prefixes: vec![format!("a/{page}/")],
                next: Some(page.to_string()),
                ..ListPage::default()
            };
            ranges.arrived(number, Ok(answer)).unwrap();
        }
        let (first, second) = (ranges.next().unwrap(), ranges.next().unwrap());
        assert_eq!(first.1.continuation.as_deref(), Some("3"));
        assert!(second.1.start_after.is_some() && second.1.continuation.is_none());
    }

    #[test]
    fn an_expired_page_is_asked_for_by_its_name() {
        let mut ranges = Ranges::new("");
        let (number, _) = ranges.next().unwrap();
        let answer = ListPage {
            prefixes: vec!["a/".into(), "b/".into()],
            next: Some("token".into()),
            ..ListPage::default()
        };
        ranges.arrived(number, Ok(answer)).unwrap();
        let (number, _) = ranges.next().unwrap();
        let expired = Err(StoreError::Refused("token".into()));
        assert_eq!(
            ranges.arrived(number, expired).unwrap(),
            ListPage::default()
        );
        let (number, request) = ranges.next().unwrap();
        assert_eq!(request.start_after.as_deref(), Some("b/"));
        let again = ListPage {
            prefixes: vec!["b/".into(), "c/".into()],
            ..ListPage::default()
        };
        let page = ranges.arrived(number, Ok(again)).unwrap();
        assert_eq!(page.prefixes, ["c/"], "nothing is given twice");
        assert!(ranges.next().is_none());
        let (refused, mut fresh) = (|| Err(StoreError::Refused("no".into())), Ranges::new(""));
        let (number, _) = fresh.next().unwrap();
        fresh.arrived(number, refused()).unwrap_err();
    }
}
