//! How many of the FUSE threads wait for requests at a time: one, as long as it keeps up.
//!
//! The kernel wakes a waiting thread for each request. While a program sends one request after the
//! other, the thread that has just answered takes the next one itself, and whoever was woken for it
//! finds nothing: a wake-up of another processor, a few microseconds of the caller's time, for each
//! request. So a thread that has answered stands by when another waits already. It is called when
//! none has waited for a while, and by who is about to wait for the disk.
//!
//! The crew ends with the session: the first thread that leaves its loop releases all.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How often it is looked at whether somebody waits. What takes longer than two looks has another
/// thread called.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// After so many looks with nothing to do, nobody looks until the next request.
const IDLE_LOOKS: u32 = 5;

/// The FUSE threads.
pub(super) struct Crew(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Those who stand by.
    called: Condvar,
    /// Who looks after them.
    looked_for: Condvar,
}

#[derive(Default)]
struct State {
    /// Threads that wait for requests. Those that have never had one do not count: they could not
    /// tell when the session ends.
    waiting: usize,
    /// Threads that stand by.
    standing_by: usize,
    /// Threads that carry a request out.
    working: usize,
    /// How many requests there have been.
    begun: u64,
    /// Whether nobody looks after them.
    unwatched: bool,
    ended: bool,
}

/// What a thread knows of itself, once it has had a request.
struct Member {
    crew: Arc<Shared>,
    at_work: bool,
}

thread_local! {
    static MEMBER: RefCell<Option<Member>> = const { RefCell::new(None) };
}

impl Drop for Member {
    fn drop(&mut self) {
        self.crew.end();
    }
}

/// A request that is being carried out. Ends after the answer.
pub(super) struct Turn<'a> {
    crew: &'a Shared,
    /// A request within a request is part of that one.
    outer: bool,
}

impl Crew {
    /// Returns a crew without members: a thread joins with its first request.
    pub(super) fn new() -> Crew {
        let shared: Arc<Shared> = Arc::default();
        let watched = shared.clone();
        let spawned = thread::Builder::new()
            .name("crew".into())
            .spawn(move || watched.look_after());
        if let Err(error) = spawned {
            log::warn!("all threads wait for requests at once: {error}");
            // Nobody stands by then.
            shared.end();
        }
        Crew(shared)
    }

    /// Says that this thread has a request.
    pub(super) fn begin(&self) -> Turn<'_> {
        let outer = MEMBER.with_borrow_mut(|member| match member {
            Some(member) if member.at_work => false,
            Some(member) => {
                member.at_work = true;
                self.0.begin(true);
                true
            }
            None => {
                let crew = self.0.clone();
                *member = Some(Member {
                    crew,
                    at_work: true,
                });
                self.0.begin(false);
                true
            }
        });
        Turn {
            crew: &self.0,
            outer,
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Turn<'_> {
    /// Says that this request is about to wait for the disk.
    pub(super) fn will_wait(&self) {
        self.crew.call(&self.crew.state.lock());
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.outer {
            self.crew.stand_by();
            MEMBER.with_borrow_mut(|member| {
                if let Some(member) = member {
                    member.at_work = false;
                }
            });
        }
    }
}

impl Shared {
    fn begin(&self, had_waited: bool) {
        let mut state = self.state.lock();
        state.waiting -= usize::from(had_waited);
        state.working += 1;
        state.begun += 1;
        if state.unwatched {
            state.unwatched = false;
            self.looked_for.notify_one();
        }
    }

    /// Returns when this thread is to wait for requests again.
    fn stand_by(&self) {
        let mut state = self.state.lock();
        state.working -= 1;
        while state.waiting > 0 && !state.ended {
            state.standing_by += 1;
            self.called.wait(&mut state);
            state.standing_by -= 1;
        }
        state.waiting += 1;
    }

    /// Calls one who stands by, if nobody waits for requests.
    fn call(&self, state: &State) {
        if state.waiting == 0 && state.standing_by > 0 {
            self.called.notify_one();
        }
    }

    fn end(&self) {
        self.state.lock().ended = true;
        self.called.notify_all();
        self.looked_for.notify_all();
    }

    fn look_after(&self) {
        let mut state = self.state.lock();
        let (mut seen, mut idle, mut nobody_waited) = (0, 0, false);
        while !state.ended {
            let is_idle = state.begun == seen && state.working == 0;
            (seen, idle) = (state.begun, if is_idle { idle + 1 } else { 0 });
            if idle < IDLE_LOOKS {
                self.looked_for.wait_for(&mut state, LOOK_EVERY);
            } else {
                state.unwatched = true;
                while state.unwatched && !state.ended {
                    self.looked_for.wait(&mut state);
                }
                idle = 0;
            }
            if nobody_waited {
                self.call(&state);
            }
            nobody_waited = state.waiting == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::time::Instant;

    use super::*;

    const MEMBERS: usize = 8;

    type Request = Box<dyn FnOnce(&Turn<'_>) + Send>;

    /// Threads that take requests as fuser's do, from a queue in place of the kernel.
    struct Session {
        crew: Arc<Crew>,
        requests: Sender<Request>,
        threads: Vec<thread::JoinHandle<()>>,
    }

    impl Session {
        fn new() -> Session {
            let crew = Arc::new(Crew::new());
            let (requests, queue) = mpsc::channel();
            let queue: Arc<Mutex<Receiver<Request>>> = Arc::new(Mutex::new(queue));
            let threads = (0..MEMBERS).map(|_| {
                let (crew, queue) = (crew.clone(), queue.clone());
                thread::spawn(move || {
                    loop {
                        let Ok(request) = queue.lock().recv() else {
                            return;
                        };
                        let turn = crew.begin();
                        request(&turn);
                    }
                })
            });
            Session {
                threads: threads.collect(),
                crew,
                requests,
            }
        }

        /// Sends a request and waits for its answer.
        fn ask(&self) {
            let (answer, answered) = mpsc::channel();
            self.send(move |_| answer.send(()).unwrap());
            answered.recv_timeout(Duration::from_secs(20)).unwrap();
        }

        fn send(&self, request: impl FnOnce(&Turn<'_>) + Send + 'static) {
            self.requests.send(Box::new(request)).unwrap();
        }

        fn standing_by(&self) -> usize {
            self.crew.0.state.lock().standing_by
        }

        /// Makes all but one stand by.
        fn settle(&self) {
            let end = Instant::now() + Duration::from_secs(20);
            while self.standing_by() < MEMBERS - 1 {
                assert!(Instant::now() < end, "{} stand by", self.standing_by());
                self.ask();
            }
        }

        fn end(self) {
            drop(self.requests);
            for thread in self.threads {
                thread.join().unwrap();
            }
        }
    }

    #[test]
    fn one_waits_while_it_keeps_up_and_all_end_with_the_session() {
        let session = Session::new();
        session.settle();
        for _ in 0..100 {
            session.ask();
        }
        assert!(session.standing_by() >= MEMBERS - 2);
        session.end();
        // Also when nobody has had a request, and when few had.
        Session::new().end();
        let session = Session::new();
        session.ask();
        session.ask();
        session.end();
    }

    #[test]
    fn a_request_that_waits_holds_up_no_other() {
        let session = Session::new();
        session.settle();
        let mut held = Vec::new();
        for says_so in [true, false].into_iter().cycle().take(MEMBERS - 1) {
            let (release, released) = mpsc::channel::<()>();
            session.send(move |turn| {
                if says_so {
                    turn.will_wait();
                }
                let _ = released.recv();
            });
            session.ask();
            held.push(release);
        }
        drop(held);
        session.settle();
        session.end();
    }

    #[test]
    fn a_request_within_a_request_is_one() {
        let crew = Crew::new();
        let turn = crew.begin();
        drop(crew.begin());
        assert_eq!(crew.0.state.lock().working, 1);
        drop(turn);
        let state = crew.0.state.lock();
        assert_eq!((state.working, state.waiting), (0, 1));
    }
}
