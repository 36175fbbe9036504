//! Listing a large folder in several key ranges at once.
//!
//! A listing is a chain of pages, each known only when the one before is here. Where there are many,
//! the range of names that is left is cut in two, again and again, and each part is its own chain.
//! Where to cut is a guess from the characters that the names have, and from how far a page reaches; a
//! bad guess costs a request that finds nothing, never a name.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use super::{ListPage, ListRequest, StoreError, StoreResult, fold};

/// A folder of fewer pages is listed one after the other: cutting costs requests.
const PLAIN_PAGES: usize = 3;
/// The most ranges at once.
const MOST_AT_ONCE: usize = 16;
/// How often a range may be cut before its next page: each cut may cost a request for nothing.
const CUTS_A_PAGE: u32 = 3;
/// How many characters of a name are looked at to find a place between two.
const DIGITS: usize = 16;
/// Of those so many may lie before the first in which two names differ, for a place beyond both.
const CARRY_DIGITS: usize = 4;
/// At so many places of a name the characters are told apart.
const PLACES: usize = 64;
/// Where only some of these were seen, the others are taken to come as well.
const SERIES: [RangeInclusive<u8>; 3] = [b'0'..=b'9', b'a'..=b'f', b'A'..=b'F'];

/// The listing of a folder, page by page, in no order across ranges. A name that the store sorts
/// otherwise than by its bytes may be given twice.
pub struct FolderListing<'a, L> {
    list: L,
    ranges: Ranges<'a>,
    under_way: FuturesUnordered<BoxFuture<'a, (usize, StoreResult<ListPage>)>>,
}

impl<'a, L, F> FolderListing<'a, L>
where
    L: Fn(ListRequest) -> F,
    F: Future<Output = StoreResult<ListPage>> + Send + 'a,
{
    /// Begins to list what lies directly below `prefix`, each page by a call of `list`.
    pub fn new(prefix: &'a str, list: L) -> Self {
        FolderListing {
            list,
            ranges: Ranges::new(prefix),
            under_way: FuturesUnordered::new(),
        }
    }

    /// Returns the next page that arrives; `None` after the last.
    ///
    /// # Errors
    /// The first error of a page ends it all.
    pub async fn next(&mut self) -> StoreResult<Option<ListPage>> {
        while let Some((number, request)) = self.ranges.next() {
            let asked = (self.list)(request);
            let numbered = async move { (number, asked.await) };
            self.under_way.push(numbered.boxed());
        }
        let Some((number, answer)) = self.under_way.next().await else {
            return Ok(None);
        };
        self.ranges.arrived(number, answer).map(Some)
    }

    /// Whether the last page has been given.
    pub fn has_ended(&self) -> bool {
        self.ranges.ranges.iter().all(|range| range.done)
    }

    /// Returns the key up to which all has arrived; `None` while that is nothing, and at the end.
    pub fn arrived_to(&self) -> Option<&str> {
        self.ranges.arrived_to()
    }
}

/// The names above `after`, up to and with `end`.
#[derive(Debug, Clone, Default)]
struct Range {
    after: Option<String>,
    end: Option<String>,
    continuation: Option<String>,
    /// The first name of the page that ended with `after`.
    first: Option<String>,
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
    alphabets: Alphabets,
}

impl<'a> Ranges<'a> {
    fn new(prefix: &'a str) -> Ranges<'a> {
        Ranges {
            prefix,
            ranges: vec![Range::default()],
            pages: 0,
            alphabets: Alphabets::default(),
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

    fn arrived_to(&self) -> Option<&str> {
        let open = self.ranges.iter().filter(|range| !range.done);
        open.map(|range| range.after.as_deref()).min().flatten()
    }

    /// Cuts the widest range that can be cut; returns the number of its upper half.
    fn cut(&mut self) -> Option<usize> {
        let under_way = self.ranges.iter().filter(|range| range.under_way).count();
        let most = match self.pages < PLAIN_PAGES {
            true => 1,
            false => self.pages.min(MOST_AT_ONCE),
        };
        if under_way == 0 || under_way >= most {
            return None;
        }
        let mut open: Vec<usize> = (0..self.ranges.len()).collect();
        open.retain(|&number| self.ranges[number].under_way && self.ranges[number].may_cut > 0);
        open.sort_by_key(|&number| self.ranges[number].cuts);
        let (number, middle) = open
            .into_iter()
            .find_map(|number| Some((number, self.place_to_cut(&self.ranges[number])?)))?;
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

    /// The middle of a range; of one whose end nobody knows as many pages ahead as were seen, as if the next
    /// reached as far as the last.
    fn place_to_cut(&self, range: &Range) -> Option<String> {
        let below = |key: &Option<String>| {
            let name = key.as_deref()?.strip_prefix(self.prefix)?;
            Some(name.to_owned())
        };
        let after = below(&range.after)?;
        let place = match (below(&range.first), below(&range.end)) {
            (Some(first), None) => self.alphabets.ahead(&first, &after, self.pages),
            _ => None,
        };
        let end = range.end.as_ref().map(|_| below(&range.end));
        let place = match (place, end) {
            (Some(place), _) => place,
            (None, None) => self.alphabets.between(&after, None)?,
            (None, Some(end)) => self.alphabets.between(&after, Some(&end?))?,
        };
        Some(format!("{}{place}", self.prefix))
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
        let (first, last) = first_and_last(&page);
        let (first, last) = (first.map(str::to_owned), last.map(str::to_owned));
        range.done = page.next.is_none() || last.as_deref().is_some_and(is_beyond);
        range.continuation = page.next.take();
        page.objects.retain(|object| {
            let name = object.version.key.as_str();
            is_new(name) && !is_beyond(name)
        });
        page.prefixes
            .retain(|name| is_new(name) && !is_beyond(name));
        if last.is_some() {
            range.first = first;
        }
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
            self.alphabets
                .learn(key.strip_prefix(self.prefix).unwrap_or_default());
        }
    }
}

/// Whether a name comes after another in whichever order the store has: R2 compares normal forms, a
/// disk bytes.
fn is_above(name: &str, other: &str) -> bool {
    name > other || *fold(name) > *fold(other)
}

/// Whether a name comes after another in both orders.
fn is_beyond(name: &str, end: &str) -> bool {
    name > end && *fold(name) > *fold(end)
}

fn first_and_last(page: &ListPage) -> (Option<&str>, Option<&str>) {
    let objects = &page.objects;
    let key = |at: Option<usize>| Some(objects.get(at?)?.version.key.as_str());
    let prefix = |at: Option<usize>| page.prefixes.get(at?).map(String::as_str);
    let either = |object, prefix, upper: bool| match (object, prefix) {
        (Some(object), Some(prefix)) if is_above(prefix, object) == upper => Some(prefix),
        (object, prefix) => object.or(prefix),
    };
    let last = (
        objects.len().checked_sub(1),
        page.prefixes.len().checked_sub(1),
    );
    (
        either(key(Some(0)), prefix(Some(0)), false),
        either(key(last.0), prefix(last.1), true),
    )
}

/// The characters that names have at each of their places, for a guess how names are spread. A name is read as
/// a number with a digit for each of its characters, and 0 where it has ended.
#[derive(Debug, Default)]
struct Alphabets(Vec<BTreeSet<u8>>);

impl Alphabets {
    fn learn(&mut self, name: &str) {
        for (place, byte) in name.bytes().enumerate().take(PLACES) {
            if place == self.0.len() {
                self.0.push(BTreeSet::new());
            }
            if byte.is_ascii_graphic() && byte != b'/' && self.0[place].insert(byte) {
                let others = SERIES.iter().filter(|series| series.contains(&byte));
                self.0[place].extend(others.cloned().flatten());
            }
        }
    }

    fn base(&self, place: usize) -> u128 {
        self.0.get(place).map_or(0, BTreeSet::len) as u128 + 1
    }

    /// Returns the number that `DIGITS` characters of a name make, from one of its places on.
    fn number(&self, name: &str, from: usize) -> u128 {
        let digit = |place: usize| {
            let byte = name.as_bytes().get(place)?;
            Some(self.0.get(place)?.range(..=byte).count() as u128)
        };
        (from..from + DIGITS).fold(0, |number, place| {
            number * self.base(place) + digit(place).unwrap_or(0)
        })
    }

    /// Returns the name that begins like `name` up to a place and goes on with a number.
    fn name(&self, name: &str, from: usize, number: u128) -> Option<String> {
        let mut digits = Vec::new();
        let mut rest = number;
        for place in (from..from + DIGITS).rev() {
            digits.push((place, (rest % self.base(place)) as usize));
            rest /= self.base(place);
        }
        let mut made = name.get(..from)?.to_owned();
        for (place, digit) in digits.into_iter().rev() {
            let Some(at) = digit.checked_sub(1) else {
                break;
            };
            made.push(char::from(*self.0.get(place)?.iter().nth(at)?));
        }
        (rest == 0).then_some(made)
    }

    /// Returns a name about in the middle between two, as if all names of these characters were equally
    /// likely; `None` if there is none.
    fn between(&self, low: &str, high: Option<&str>) -> Option<String> {
        let from = high.map_or(0, |high| common(low, high));
        let top = (from..from + DIGITS).fold(1, |top, place| top * self.base(place)) - 1;
        let (low_number, high_number) = (
            self.number(low, from),
            high.map_or(top, |high| self.number(high, from)),
        );
        let middle = low_number + high_number.saturating_sub(low_number) / 2;
        let name = self.name(low, from, middle)?;
        (*name > *low && high.is_none_or(|high| *name < *high)).then_some(name)
    }

    /// Returns a name so many times as far behind `last` as `last` is behind `first`.
    fn ahead(&self, first: &str, last: &str, times: usize) -> Option<String> {
        let from = common(first, last).saturating_sub(CARRY_DIGITS);
        let last_number = self.number(last, from);
        let step = last_number.checked_sub(self.number(first, from))?;
        let number = last_number.checked_add(step.checked_mul(times as u128)?)?;
        let name = self.name(last, from, number)?;
        (*name > *last).then_some(name)
    }
}

/// Returns in how many bytes two names begin alike.
fn common(one: &str, other: &str) -> usize {
    let pairs = one.bytes().zip(other.bytes());
    pairs.take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(names: &[&str]) -> Alphabets {
        let mut alphabets = Alphabets::default();
        names.iter().for_each(|name| alphabets.learn(name));
        alphabets
    }

    #[test]
    fn the_middle_lies_between() {
        let digits = learned(&["0123456789012345"]);
        let middle = digits.between("0", None).unwrap();
        assert!(*middle > *"3" && *middle < *"6", "{middle}");
        let takes = learned(&["take-1"]);
        let middle = takes.between("take-1", Some("take-9")).unwrap();
        assert!(*middle > *"take-1" && *middle < *"take-9", "{middle}");
        assert_eq!(takes.between("a", Some("a")), None);
        assert_eq!(digits.between("9999999999999999", None), None);
        assert_eq!(learned(&[]).between("a", None), None);
        assert_eq!(learned(&["ab"]).between("é", Some("è")), None);
    }

    #[test]
    fn a_place_ahead_is_found_by_how_far_a_page_reaches() {
        let takes = learned(&["take-000000.wav", "take-000999.wav"]);
        let place = takes.ahead("take-000000.wav", "take-000999.wav", 3);
        let place = place.unwrap();
        assert!(
            *place > *"take-003600.wav" && *place < *"take-004300.wav",
            "{place}"
        );
        let ids = learned(&["00b3f1c2a4d5e6f7", "08123456789abcde"]);
        let place = ids.ahead("00b3f1c2a4d5e6f7", "08123456789abcde", 4);
        let place = place.unwrap();
        assert!(*place > *"1" && *place < *"4", "{place}");
        assert_eq!(ids.ahead("00b3f1c2a4d5e6f7", "08123456789abcde", 99), None);
        assert_eq!(takes.ahead("take-1", "take-1", 4), None);
        assert_eq!(learned(&[]).ahead("a", "b", 4), None);
        assert_eq!(learned(&["ü"]).ahead("ü", "ýx", 1), None);
    }

    #[test]
    fn numbered_names_are_listed_in_few_rounds_and_with_few_requests_for_nothing() {
        for (names, most_rounds, most_requests) in [(10_000, 6, 16), (100_000, 16, 150)] {
            let names: Vec<String> = (0..names).map(|n| format!("a/take-{n:06}.wav")).collect();
            let mut ranges = Ranges::new("a/");
            let (mut rounds, mut requests, mut found) = (0, 0, BTreeSet::new());
            loop {
                let mut round = Vec::new();
                while let Some(asked) = ranges.next() {
                    round.push(asked);
                }
                if round.is_empty() {
                    break;
                }
                rounds += 1;
                requests += round.len();
                for (number, request) in round {
                    let after = request.continuation.or(request.start_after);
                    let from =
                        after.map_or(0, |after| names.partition_point(|name| *name <= after));
                    let to = (from + 1000).min(names.len());
                    let answer = ListPage {
                        prefixes: names[from..to].to_vec(),
                        next: (to < names.len()).then(|| names[to - 1].clone()),
                        ..ListPage::default()
                    };
                    found.extend(ranges.arrived(number, Ok(answer)).unwrap().prefixes);
                }
            }
            assert_eq!(found.into_iter().collect::<Vec<_>>(), names);
            println!("{rounds} rounds, {requests} requests");
            assert!(rounds <= most_rounds, "{rounds}");
            assert!(requests <= most_requests, "{requests}");
        }
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
        assert_eq!(first.1.continuation.as_deref(), Some("2"));
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
