use super::*;

struct Bench {
    plan: Plan,
    now: Instant,
    seq: u64,
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

impl Bench {
    fn new() -> Bench {
        let begun = Instant::now();
        Bench {
            plan: Plan::new(2, begun, || 1.0),
            now: begun + KEY_REST,
            seq: 0,
        }
    }

    fn task(&mut self) -> Task {
        self.seq += 1;
        Task {
            seq: Seq(self.seq),
            ready: true,
            large: false,
            source: None,
            changed_at: self.now,
            quiet: Duration::from_secs(2),
        }
    }

    fn set(&mut self, name: &str) {
        let task = self.task();
        self.plan.update(&key(name), Some(task));
    }

    fn copy(&mut self, name: &str, source: &str) {
        let source = Some(key(source));
        let task = Task {
            source,
            ..self.task()
        };
        self.plan.update(&key(name), Some(task));
    }

    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    /// Returns all that may go now.
    fn going(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.plan.next(self.now))
            .map(|next| match next {
                Next::Go(key) => key.as_str().to_owned(),
                Next::Circle(key) => format!("circle: {key}"),
            })
            .collect()
    }

    fn finish(&mut self, name: &str, outcome: Outcome) {
        let seq = self
            .plan
            .entries
            .get(&key(name))
            .map_or(Seq(0), |e| e.task.seq);
        let heard = matches!(outcome, Outcome::Done | Outcome::Failed(_));
        self.plan
            .finished(&key(name), seq, (outcome, heard), self.now);
    }

    fn done(&mut self, name: &str) {
        self.plan.update(&key(name), None);
        self.finish(name, Outcome::Done);
    }
}

#[test]
fn a_record_goes_after_the_quiet_time() {
    let mut bench = Bench::new();
    bench.set("a");
    assert_eq!(
        bench.plan.wakes_at(),
        Some(bench.now + Duration::from_secs(2))
    );
    bench.pass(1.9);
    assert!(bench.going().is_empty());
    bench.set("a");
    bench.pass(1.9);
    assert!(bench.going().is_empty(), "saved again meanwhile");
    bench.pass(0.1);
    assert_eq!(bench.going(), ["a"]);
    bench.set("b");
    bench.plan.set_hurry(true);
    assert_eq!(bench.going(), ["b"]);
}

#[test]
fn nothing_goes_too_soon_after_a_restart() {
    let mut bench = Bench::new();
    bench.plan.set_hurry(true);
    bench.now -= KEY_REST;
    bench.set("a");
    bench.pass(1.4);
    assert!(bench.going().is_empty());
    bench.pass(0.1);
    assert_eq!(bench.going(), ["a"]);
}

#[test]
fn an_open_or_parked_record_stays() {
    let mut bench = Bench::new();
    let task = Task {
        ready: false,
        ..bench.task()
    };
    bench.plan.update(&key("a"), Some(task.clone()));
    bench.pass(100.0);
    assert!(bench.going().is_empty());
    assert_eq!(bench.plan.wakes_at(), None);
    bench.plan.update(
        &key("a"),
        Some(Task {
            ready: true,
            ..task
        }),
    );
    assert_eq!(bench.going(), ["a"]);
}

#[test]
fn a_key_is_written_by_one_operation_at_a_time_with_a_rest_between() {
    let mut bench = Bench::new();
    bench.set("a");
    bench.pass(2.0);
    assert_eq!(bench.going(), ["a"]);
    bench.set("a");
    bench.pass(10.0);
    assert!(bench.going().is_empty(), "on its way");
    bench.finish("a", Outcome::Done);
    bench.pass(1.4);
    assert!(bench.going().is_empty(), "a write a second at most");
    bench.pass(0.1);
    assert_eq!(bench.going(), ["a"]);
}

#[test]
fn a_key_waits_for_all_copies_of_it() {
    let mut bench = Bench::new();
    bench.plan.set_hurry(true);
    bench.set("song");
    bench.copy("song.bak", "song");
    bench.copy("song.old", "song");
    bench.copy("song", "song");
    let mut going = bench.going();
    going.sort();
    assert_eq!(going, ["song.bak", "song.old"]);
    bench.done("song.bak");
    assert!(bench.going().is_empty());
    bench.done("song.old");
    assert_eq!(
        bench.going(),
        ["song"],
        "a copy onto itself waits for nothing"
    );
}

#[test]
fn a_circle_of_copies_is_noticed() {
    let mut bench = Bench::new();
    bench.plan.set_hurry(true);
    bench.copy("a", "b");
    bench.copy("b", "c");
    bench.copy("c", "a");
    bench.set("d");
    let going = bench.going();
    assert_eq!(going.iter().filter(|g| g.starts_with("circle")).count(), 3);
    assert!(going.contains(&"d".to_owned()));
}

#[test]
fn large_files_leave_room_for_small_ones() {
    let mut bench = Bench::new();
    bench.plan.set_hurry(true);
    for name in ["A", "B", "C", "D"] {
        let large = Task {
            large: true,
            ..bench.task()
        };
        bench.plan.update(&key(name), Some(large));
    }
    for name in ["e", "f", "g", "h", "i", "j", "k"] {
        bench.set(name);
    }
    assert_eq!(bench.going(), ["A", "B", "e", "f", "g", "h", "i", "j"]);
    bench.done("A");
    assert_eq!(bench.going(), ["C"]);
    bench.done("B");
    bench.done("e");
    assert_eq!(bench.going(), ["D", "k"]);
}

#[test]
fn failures_are_repeated_later_and_later() {
    let mut bench = Bench::new();
    bench.plan.set_hurry(true);
    bench.set("a");
    for wait in [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
        assert_eq!(bench.going(), ["a"]);
        bench.finish("a", Outcome::Failed(None));
        bench.pass(wait - 0.1);
        assert!(bench.going().is_empty(), "{wait}");
        bench.pass(0.1);
    }
    assert_eq!(bench.going(), ["a"]);
    bench.finish("a", Outcome::Failed(Some(Duration::from_secs(300))));
    bench.pass(299.0);
    assert!(bench.going().is_empty(), "the store has asked for it");
    bench.set("a");
    assert_eq!(bench.going(), ["a"], "changed: tried at once");
}

#[test]
fn an_outage_is_probed_and_forgiven() {
    let mut bench = Bench::new();
    bench.plan.set_hurry(true);
    let first = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for name in first.into_iter().chain(["i"]) {
        bench.set(name);
    }
    assert_eq!(bench.going(), first);
    for name in first {
        bench.finish(name, Outcome::Unreachable(None));
    }
    assert!(bench.plan.in_outage());
    assert!(bench.going().is_empty());
    let mut tries = 0;
    for _ in 0..100 {
        bench.pass(1.0);
        for name in bench.going() {
            tries += 1;
            assert_eq!(bench.plan.active(), 1);
            bench.finish(&name, Outcome::Unreachable(None));
        }
    }
    assert!((4..12).contains(&tries), "{tries}");
    bench.pass(30.0);
    let probe = bench.going();
    assert_eq!(probe.len(), 1);
    bench.done(&probe[0]);
    assert!(!bench.plan.in_outage());
    bench.pass(2.0);
    assert_eq!(
        bench.going().len(),
        8,
        "all at once, whatever they waited for"
    );
}

#[test]
fn refused_credentials_hold_everything() {
    let mut bench = Bench::new();
    bench.plan.set_hurry(true);
    bench.set("a");
    assert_eq!(bench.going(), ["a"]);
    bench.finish("a", Outcome::Refused);
    bench.set("b");
    bench.pass(59.0);
    assert!(bench.going().is_empty());
    bench.pass(1.0);
    assert_eq!(bench.going().len(), 1);
}

#[test]
fn a_flush_tries_refused_credentials_again_at_once() {
    let mut bench = Bench::new();
    bench.plan.set_hurry(true);
    bench.set("a");
    assert_eq!(bench.going(), ["a"]);
    bench.finish("a", Outcome::Refused);
    bench.pass(2.0);
    assert_eq!(bench.going(), [""; 0]);
    bench.plan.flush(&key("a"));
    assert_eq!(bench.going(), ["a"]);
}

#[test]
fn a_flushed_record_goes_at_once_and_its_next_state_waits_again() {
    let mut bench = Bench::new();
    bench.set("a");
    bench.set("b");
    assert_eq!(bench.going(), [""; 0]);
    bench.plan.flush(&key("a"));
    bench.plan.flush(&key("unknown"));
    assert_eq!(bench.going(), ["a"]);
    bench.finish("a", Outcome::Failed(Some(Duration::from_secs(600))));
    bench.pass(2.0);
    assert_eq!(bench.going(), ["b"]);
    bench.plan.flush(&key("a"));
    assert_eq!(bench.going(), ["a"], "the wait after a failure is left out");
    bench.done("a");
    bench.pass(2.0);
    bench.set("a");
    assert_eq!(bench.going(), [""; 0]);
}
