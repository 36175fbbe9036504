use super::*;
use crate::store::WriteCondition::{IfAbsent, IfMatch};

const TTL: Duration = Duration::from_secs(180);
const SECOND: Duration = Duration::from_secs(1);

/// A table, and a clock that stands until it is moved.
struct Bench {
    table: Table,
    now: Instant,
}

fn etag(text: &str) -> ETag {
    ETag::new(text)
}

fn lease(id: &str) -> Lease {
    Lease {
        name: Some("Anna".to_owned()),
        host: "studio-2".to_owned(),
        id: id.to_owned(),
        since: SystemTime::UNIX_EPOCH,
        renewed_at: SystemTime::UNIX_EPOCH,
        ttl: TTL,
    }
}

impl Bench {
    fn new() -> Bench {
        Bench::that_takes(true)
    }

    fn that_takes(takes: bool) -> Bench {
        let rules = Rules {
            id: "ours".to_owned(),
            ttl: TTL,
            takes,
        };
        Bench {
            table: Table::new(rules),
            now: Instant::now(),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn change(&mut self, project: &str) -> bool {
        self.table.note_change(project, self.now)
    }

    fn due(&mut self) -> Vec<Step> {
        let due = self.table.due(self.now);
        due.into_iter().map(|(_, step)| step).collect()
    }

    fn answered(&mut self, answer: Answer) -> Option<String> {
        self.table.answered("song", answer, self.now)
    }

    fn held(&mut self, tag: &str) {
        let (now, since) = (self.now, SystemTime::UNIX_EPOCH);
        self.answered(Answer::Held(etag(tag), since, now));
    }

    fn found(&mut self, id: &str, age: Duration) -> Option<String> {
        self.found_as(id, id, age)
    }

    fn found_as(&mut self, tag: &str, id: &str, age: Duration) -> Option<String> {
        self.answered(Answer::Found(Found {
            etag: etag(tag),
            lease: Some(lease(id)),
            age,
        }))
    }

    /// Works until the lease is held.
    fn hold(&mut self) {
        assert!(self.change("song"));
        assert_eq!(self.due(), [Step::Look]);
        self.answered(Answer::Nothing);
        assert_eq!(self.due(), [Step::Take(IfAbsent)]);
        self.held("1");
    }

    /// Looks, and finds a lease of somebody else's.
    fn meet(&mut self, age: Duration) {
        assert!(self.change("song"));
        assert_eq!(self.due(), [Step::Look]);
        self.found("theirs", age);
    }

    fn is_held(&self) -> bool {
        let all = self.table.all(self.now);
        all.iter().any(|(_, whose)| whose.is_ok())
    }

    fn is_others(&self) -> bool {
        self.table.others("song", self.now).is_some()
    }
}

#[test]
fn a_lease_is_looked_at_taken_renewed_and_given_back() {
    let mut bench = Bench::new();
    assert_eq!(bench.due(), []);
    assert_eq!(bench.table.next(bench.now), None);
    bench.hold();
    assert!(bench.is_held());
    assert!(!bench.change("song"), "there is nothing to be asked");
    let renew = |tag| Step::Renew(etag(tag), SystemTime::UNIX_EPOCH);
    bench.pass(59 * SECOND);
    assert_eq!(bench.due(), []);
    bench.pass(SECOND);
    assert_eq!(bench.table.next(bench.now), Some(bench.now));
    assert_eq!(bench.due(), [renew("1")]);
    assert_eq!(bench.due(), [], "one is under way");
    bench.held("2");
    // Nine minutes after the last sign it goes, having been renewed all the time.
    for minute in 2..9 {
        bench.pass(60 * SECOND);
        assert_eq!(bench.due().len(), 1, "{minute}");
        bench.held("3");
    }
    bench.pass(60 * SECOND);
    assert_eq!(bench.due(), [Step::LetGo(etag("3"))]);
    bench.answered(Answer::LetGo);
    assert!(!bench.is_held());
    assert_eq!(bench.table.next(bench.now), None);
}

#[test]
fn what_is_open_or_waits_keeps_a_lease() {
    let mut bench = Bench::new();
    bench.hold();
    assert!(bench.table.quiet(bench.now).is_empty());
    for _ in 0..100 {
        bench.pass(60 * SECOND);
        assert_eq!(bench.table.quiet(bench.now), ["song"]);
        bench.table.keep("song", bench.now);
        assert_eq!(bench.due().len(), 1);
        bench.held("1");
    }
    assert!(bench.is_held());
}

#[test]
fn what_another_holds_is_left_to_it_until_it_is_given_back() {
    let mut bench = Bench::new();
    bench.meet(10 * SECOND);
    assert!(bench.is_others());
    assert_eq!(bench.due(), []);
    for tag in ["2", "3", "4", "5", "6"] {
        bench.pass(60 * SECOND);
        bench.change("song");
        assert_eq!(bench.due(), [Step::Look]);
        let news = bench.found_as(tag, "theirs", SECOND);
        assert_eq!(news, None);
        assert!(bench.is_others());
    }
    bench.pass(60 * SECOND);
    assert_eq!(bench.due(), [Step::Look]);
    bench.answered(Answer::Nothing);
    assert!(!bench.is_others());
    assert_eq!(bench.due(), [Step::Take(IfAbsent)]);
    bench.held("1");
    assert!(bench.is_held());
}

#[test]
fn what_has_ended_counts_no_more_and_is_taken_over_that_very_version() {
    let mut bench = Bench::new();
    bench.meet(178 * SECOND);
    assert!(bench.is_others(), "dates are whole seconds");
    bench.pass(4 * SECOND);
    assert!(!bench.is_others());
    assert_eq!(bench.table.all(bench.now), []);
    assert_eq!(bench.due(), [Step::Take(IfMatch(etag("theirs")))]);
    // The other came back at the same moment.
    bench.answered(Answer::Lost);
    assert_eq!(bench.due(), [Step::Look]);
    assert!(bench.found("theirs", Duration::ZERO).is_some());
    assert!(bench.is_others() && !bench.is_held());
    assert_eq!(bench.due(), []);
}

#[test]
fn what_is_not_renewed_ends_also_if_its_age_is_not_told() {
    let mut bench = Bench::new();
    bench.meet(Duration::ZERO);
    for passed in 1..=3 {
        bench.pass(60 * SECOND);
        assert_eq!(bench.due(), [Step::Look]);
        bench.found("theirs", Duration::ZERO);
        assert!(bench.is_others(), "{passed}");
    }
    bench.pass(2 * SECOND);
    assert!(!bench.is_others());
    assert_eq!(bench.due(), [Step::Take(IfMatch(etag("theirs")))]);
}

#[test]
fn who_loses_the_race_does_not_hold_it() {
    let mut bench = Bench::new();
    bench.change("song");
    bench.due();
    bench.answered(Answer::Nothing);
    assert_eq!(bench.due(), [Step::Take(IfAbsent)]);
    bench.answered(Answer::Lost);
    assert_eq!(bench.due(), [Step::Look]);
    let news = bench.found("theirs", Duration::ZERO).unwrap();
    assert!(news.starts_with("open by Anna on studio-2"), "{news}");
    assert!(bench.is_others() && !bench.is_held());
}

#[test]
fn without_answers_a_lease_ends_here_before_others_may_take_it() {
    let mut bench = Bench::new();
    bench.hold();
    for passed in 1..=20 {
        bench.pass(10 * SECOND);
        for _ in bench.due() {
            bench.answered(Answer::Failed);
        }
        // It counts from when the request was begun, so never longer than for the bucket.
        assert_eq!(bench.is_held(), passed * 10 < 180, "{passed}");
    }
    // The bucket is back, and nobody has taken it.
    bench.pass(30 * SECOND);
    assert_eq!(bench.due(), [Step::Look]);
    bench.found("ours", 230 * SECOND);
    assert!(!bench.is_held());
    assert!(matches!(bench.due()[..], [Step::Renew(..)]));
    bench.held("2");
    assert!(bench.is_held());
}

#[test]
fn nothing_is_written_again_before_it_was_looked_at_what_became_of_it() {
    let mut bench = Bench::new();
    bench.change("song");
    bench.due();
    bench.answered(Answer::Nothing);
    assert_eq!(bench.due(), [Step::Take(IfAbsent)]);
    bench.answered(Answer::Failed);
    assert_eq!(bench.due(), []);
    bench.pass(30 * SECOND);
    assert_eq!(bench.due(), [Step::Look]);
    bench.found("ours", 25 * SECOND);
    assert!(bench.is_held());
    bench.pass(35 * SECOND);
    assert!(matches!(bench.due()[..], [Step::Renew(..)]));
    bench.answered(Answer::Failed);
    assert!(bench.is_held(), "it is ours until it has ended");
    bench.pass(30 * SECOND);
    assert_eq!(bench.due(), [Step::Look]);
}

#[test]
fn a_lease_that_was_taken_meanwhile_is_lost() {
    let mut bench = Bench::new();
    bench.hold();
    bench.pass(500 * SECOND);
    assert!(matches!(bench.due()[..], [Step::Renew(..)]));
    bench.answered(Answer::Lost);
    assert!(!bench.is_held());
    assert_eq!(bench.due(), [Step::Look]);
    bench.found("theirs", Duration::ZERO);
    assert!(bench.is_others());
}

#[test]
fn a_lease_that_somebody_removed_is_taken_anew() {
    let mut bench = Bench::new();
    bench.hold();
    bench.pass(60 * SECOND);
    assert!(matches!(bench.due()[..], [Step::Renew(..)]));
    bench.answered(Answer::Lost);
    assert_eq!(bench.due(), [Step::Look]);
    bench.answered(Answer::Nothing);
    assert_eq!(bench.due(), [Step::Take(IfAbsent)]);
    bench.held("2");
    assert!(bench.is_held());
}

#[test]
fn a_lease_of_a_former_life_or_of_a_lost_answer_is_ours() {
    let mut bench = Bench::new();
    bench.change("song");
    bench.due();
    assert_eq!(bench.found("ours", 50 * SECOND), None);
    assert!(bench.is_held() && !bench.is_others());
    bench.pass(10 * SECOND);
    assert!(matches!(bench.due()[..], [Step::Renew(..)]));
    // One that nobody works under any more is given back.
    let mut bench = Bench::new();
    assert!(bench.table.note_question("song", bench.now));
    assert_eq!(bench.due(), [Step::Look]);
    bench.found("ours", 50 * SECOND);
    assert_eq!(bench.due(), [Step::LetGo(etag("ours"))]);
}

#[test]
fn a_damaged_lease_counts_for_nothing() {
    let mut bench = Bench::new();
    bench.change("song");
    bench.due();
    let damaged = || {
        Answer::Found(Found {
            etag: etag("odd"),
            lease: None,
            age: Duration::ZERO,
        })
    };
    assert!(bench.answered(damaged()).is_some());
    assert!(!bench.is_others());
    assert_eq!(bench.due(), [Step::Take(IfMatch(etag("odd")))]);
}

#[test]
fn a_mount_that_cannot_write_only_looks() {
    let mut bench = Bench::that_takes(false);
    assert!(bench.table.note_open("song", true, bench.now));
    assert_eq!(bench.due(), [Step::Look]);
    bench.answered(Answer::Nothing);
    assert_eq!(bench.due(), []);
    bench.pass(60 * SECOND);
    assert_eq!(bench.due(), [Step::Look]);
    bench.found("theirs", Duration::ZERO);
    bench.pass(400 * SECOND);
    assert_eq!(bench.due(), [Step::Look], "also when that has ended");
}

#[test]
fn a_token_that_may_not_write_is_not_tried_all_the_time() {
    let mut bench = Bench::new();
    bench.change("song");
    bench.due();
    bench.answered(Answer::Nothing);
    bench.due();
    bench.answered(Answer::Refused);
    for _ in 0..8 {
        bench.pass(60 * SECOND);
        bench.change("song");
        assert_eq!(bench.due(), []);
    }
}

#[test]
fn files_that_are_read_cost_one_look_in_a_while_and_take_nothing() {
    let mut bench = Bench::new();
    let (mut looks, mut seconds) = (0, 0);
    while seconds < 600 {
        bench.table.note_open("song", false, bench.now);
        for step in bench.due() {
            assert_eq!(step, Step::Look);
            looks += 1;
            bench.answered(Answer::Nothing);
        }
        bench.pass(SECOND);
        seconds += 1;
    }
    assert_eq!(looks, 20);
    // Nobody opens anything any more.
    bench.pass(3600 * SECOND);
    assert_eq!(bench.due(), []);
    assert_eq!(bench.table.next(bench.now), None);
}

#[test]
fn an_opened_project_is_worked_in_and_a_search_through_many_is_no_work() {
    let mut bench = Bench::new();
    assert!(bench.table.note_open("song", true, bench.now));
    bench.due();
    bench.answered(Answer::Nothing);
    assert_eq!(bench.due(), [Step::Take(IfAbsent)]);
    bench.held("1");
    for number in 1..100 {
        let project = format!("song-{number}");
        bench.table.note_open(&project, true, bench.now);
    }
    // Of those that came first nothing is wanted any more.
    let due = bench.due();
    assert_eq!(due, [Step::LetGo(etag("1"))]);
    // Who has changed something is at work all the same.
    assert!(bench.change("song-99"));
    assert_eq!(bench.due(), [Step::Look]);
}

#[test]
fn a_sweep_through_all_projects_takes_few_leases() {
    let mut bench = Bench::new();
    for number in 0..1_000 {
        bench.change(&format!("song-{number}"));
    }
    assert_eq!(bench.due().len(), MOST_WANTED);
    for number in 0..1_000 {
        bench
            .table
            .note_question(&format!("song-{number}"), bench.now);
    }
    assert!(bench.table.projects.len() <= MOST_KNOWN);
}

#[test]
fn what_cannot_be_asked_refuses_nothing() {
    let mut bench = Bench::new();
    bench.meet(Duration::ZERO);
    assert!(bench.table.is_taken("song", bench.now));
    assert!(bench.table.tell_once("song", bench.now).is_some());
    assert!(bench.table.tell_once("song", bench.now).is_none());
    bench.pass(60 * SECOND);
    assert_eq!(bench.due(), [Step::Look]);
    bench.answered(Answer::Failed);
    assert!(bench.is_others(), "it is still told");
    assert!(!bench.table.is_taken("song", bench.now));
    assert!(bench.table.has_failed("song", bench.now));
}

#[test]
fn at_the_end_everything_is_given_back_and_nothing_taken() {
    let mut bench = Bench::new();
    bench.hold();
    bench.change("other");
    bench.table.end();
    assert!(!bench.table.is_settled());
    assert_eq!(bench.due(), [Step::LetGo(etag("1"))]);
    bench.answered(Answer::LetGo);
    assert!(bench.table.is_settled());
    assert_eq!(bench.due(), []);
}
