//! Conditions on reads and writes of single objects.

use voicebeatfs::store::StoreError::*;
use voicebeatfs::store::{ETag, ReadCondition, WriteCondition};

use super::subject::{Subject, behaviours};

behaviours![
    read_conditions,
    write_if_absent,
    write_if_match,
    racing_writers
];

async fn read_conditions(subject: Subject) {
    let old = subject.put("a", "one").await;
    let new = subject.put("a", "two").await;
    let get = async |condition| subject.get_if("a", Some(0..2), condition).await;
    let head = async |condition| subject.store.head(&subject.key("a"), condition).await;
    assert_eq!(
        get(ReadCondition::IfMatch(new.clone())).await.unwrap(),
        "tw"
    );
    assert_eq!(
        get(ReadCondition::IfNoneMatch(old.clone())).await.unwrap(),
        "tw"
    );
    let found = get(ReadCondition::IfMatch(old.clone())).await;
    assert!(matches!(found, Err(PreconditionFailed)), "{found:?}");
    let found = get(ReadCondition::IfNoneMatch(new.clone())).await;
    assert!(matches!(found, Err(NotModified)), "{found:?}");
    assert!(head(ReadCondition::IfMatch(new.clone())).await.is_ok());
    assert!(head(ReadCondition::IfNoneMatch(old.clone())).await.is_ok());
    let found = head(ReadCondition::IfMatch(old)).await;
    assert!(matches!(found, Err(PreconditionFailed)), "{found:?}");
    let found = head(ReadCondition::IfNoneMatch(new)).await;
    assert!(matches!(found, Err(NotModified)), "{found:?}");
}

async fn write_if_absent(subject: Subject) {
    let put = async |body| subject.put_if("a", body, WriteCondition::IfAbsent).await;
    put("one").await.unwrap();
    let second = put("two").await;
    assert!(matches!(second, Err(PreconditionFailed)), "{second:?}");
    assert_eq!(subject.get("a").await.unwrap(), "one");
    subject.store.delete(&subject.key("a")).await.unwrap();
    put("three").await.unwrap();
    assert_eq!(subject.get("a").await.unwrap(), "three");
}

async fn write_if_match(subject: Subject) {
    let put = async |body, tag: &ETag| {
        let condition = WriteCondition::IfMatch(tag.clone());
        subject.put_if("a", body, condition).await
    };
    let old = subject.put("a", "one").await;
    let new = put("two", &old).await.unwrap();
    let stale = put("three", &old).await;
    assert!(matches!(stale, Err(PreconditionFailed)), "{stale:?}");
    assert_eq!(subject.get("a").await.unwrap(), "two");
    subject.store.delete(&subject.key("a")).await.unwrap();
    let gone = put("four", &new).await;
    assert!(matches!(gone, Err(PreconditionFailed)), "{gone:?}");
}

async fn racing_writers(subject: Subject) {
    let bodies: Vec<String> = (0..8).map(|number| format!("writer {number}")).collect();
    let put = |body| subject.put_if("a", body, WriteCondition::IfAbsent);
    let results = futures::future::join_all(bodies.iter().map(|body| put(body))).await;
    let winners: Vec<usize> = (0..8).filter(|number| results[*number].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    assert_eq!(subject.get("a").await.unwrap(), bodies[winners[0]]);
    let lost = |result: &&Result<_, _>| matches!(result, Err(PreconditionFailed));
    assert_eq!(results.iter().filter(lost).count(), 7, "{results:?}");
}
