//! The log of requests, and what they would have cost.

use std::collections::VecDeque;
use std::time::SystemTime;

use crate::operation::{Class, Operation};

/// The most records kept; the oldest go first. A soak test must not eat the machine.
const MAX_RECORDS: usize = 200_000;

/// Headers that no log should hold.
const SECRET_HEADERS: [&str; 2] = ["authorization", "x-amz-security-token"];

/// One request as the model saw it.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// When the request arrived.
    pub at: SystemTime,
    /// The access key that it is signed with, whether or not that is right.
    pub client: Option<String>,
    /// What it asked for.
    pub operation: Operation,
    /// The key as the client spelled it.
    pub key: Option<String>,
    /// The decoded query parameters, without those of the signature.
    pub query: Vec<(String, String)>,
    /// The `Range` header.
    pub range: Option<String>,
    /// The status of the answer; `None` while there is none, and for good if it was cut off.
    pub status: Option<u16>,
    /// The status with which the request was carried out, also if the client never saw it;
    /// `None` if it was not (yet).
    pub outcome: Option<u16>,
    /// The bytes of the body that were taken in, without chunk framing.
    pub bytes_in: u64,
    /// The bytes of the body that were given to the connection.
    pub bytes_out: u64,
    /// All headers but credentials, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The names of the faults that changed the request's course.
    pub faults: Vec<&'static str>,
}

impl RequestRecord {
    /// Returns the value of a header, or `None`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the value of a query parameter, or `None`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Requests by how R2 bills them. Those answered 401 and 403 cost nothing, nor do those that a
/// fault kept from being carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Costs {
    /// Writes and listings.
    pub class_a: u64,
    /// Reads.
    pub class_b: u64,
    /// Deletes and aborts.
    pub free: u64,
}

/// The log itself.
#[derive(Debug, Default)]
pub(crate) struct Log {
    records: VecDeque<RequestRecord>,
    /// The number of the first record held.
    first: u64,
    pub(crate) costs: Costs,
}

impl Log {
    /// Enters a request and returns its number.
    pub(crate) fn begin(&mut self, record: RequestRecord) -> u64 {
        if self.records.len() >= MAX_RECORDS {
            self.records.pop_front();
            self.first += 1;
        }
        self.records.push_back(record);
        self.first + self.records.len() as u64 - 1
    }

    /// Changes a record, unless it has been cleared meanwhile.
    pub(crate) fn update(&mut self, number: u64, change: impl FnOnce(&mut RequestRecord)) {
        let index = number
            .checked_sub(self.first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(record) = index.and_then(|index| self.records.get_mut(index)) {
            change(record);
        }
    }

    /// Enters the status that the client is told.
    pub(crate) fn answered(&mut self, number: u64, status: u16) {
        self.update(number, |record| record.status = Some(status));
    }

    /// Enters the status that a request was carried out with, and its cost.
    pub(crate) fn carried_out(&mut self, number: u64, operation: Operation, status: u16) {
        self.update(number, |record| record.outcome = Some(status));
        match operation.class() {
            _ if status == 401 || status == 403 => {}
            Class::A => self.costs.class_a += 1,
            Class::B => self.costs.class_b += 1,
            Class::Free => self.costs.free += 1,
        }
    }

    pub(crate) fn records(&self) -> Vec<RequestRecord> {
        self.records.iter().cloned().collect()
    }

    /// Forgets records and costs; requests under way are not entered again.
    pub(crate) fn clear(&mut self) {
        self.first += self.records.len() as u64;
        self.records.clear();
        self.costs = Costs::default();
    }
}

/// Returns the headers worth keeping.
pub(crate) fn kept_headers(headers: &hyper::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .filter(|(name, _)| !SECRET_HEADERS.contains(&name.as_str()))
        .map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RequestRecord {
        RequestRecord {
            at: SystemTime::now(),
            client: None,
            operation: Operation::PutObject,
            key: None,
            query: Vec::new(),
            range: None,
            status: None,
            outcome: None,
            bytes_in: 0,
            bytes_out: 0,
            headers: Vec::new(),
            faults: Vec::new(),
        }
    }

    #[test]
    fn a_cleared_record_is_not_confused_with_a_later_one() {
        let mut log = Log::default();
        let early = log.begin(record());
        log.clear();
        let late = log.begin(record());
        log.answered(early, 200);
        log.carried_out(early, Operation::PutObject, 200);
        assert_eq!(log.records()[0].status, None);
        log.answered(late, 412);
        log.carried_out(late, Operation::PutObject, 412);
        assert_eq!(log.records()[0].status, Some(412));
        assert_eq!(log.costs.class_a, 2);
        log.carried_out(late, Operation::GetObject, 403);
        let costs = Costs {
            class_a: 2,
            class_b: 0,
            free: 0,
        };
        assert_eq!(log.costs, costs);
    }
}
