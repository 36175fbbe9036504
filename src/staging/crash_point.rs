//! Moments at which a kill is tried out: a test has something done whenever its own thread reaches
//! one.

use std::cell::RefCell;

type Watcher = Box<dyn FnMut(&'static str)>;

thread_local! {
    static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
}

/// Has `watcher` called at each crash point that this thread reaches, until the next call.
pub(crate) fn watch(watcher: Option<Watcher>) {
    WATCHER.set(watcher);
}

/// Calls the watcher, if there is one. `what` says where.
pub(crate) fn reach(what: &'static str) {
    // What the watcher itself does is not watched.
    let watcher = WATCHER.take();
    if let Some(mut watcher) = watcher {
        watcher(what);
        WATCHER.set(Some(watcher));
    }
}
