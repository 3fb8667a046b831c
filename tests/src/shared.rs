//! A thing that all tests of a process use together.

use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

/// A thing that is made for the test that first wants it, and goes when the process ends:
/// making it anew for each test would take minutes.
#[derive(Debug, Default)]
pub struct Shared<T>(Mutex<Option<Arc<T>>>);

impl<T: Send + Sync> Shared<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The thing, made by `make` if it is not there. Others wait meanwhile.
    pub fn get(&'static self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut shared = lock(&self.0);
        let thing = shared.get_or_insert_with(|| {
            at_end(Box::new(|| drop(lock(&self.0).take())));
            Arc::new(make())
        });
        Arc::clone(thing)
    }
}

type Task = Box<dyn FnOnce() + Send>;

static TASKS: Mutex<Vec<Task>> = Mutex::new(Vec::new());

/// Runs `task` when the process ends; Rust drops nothing that is static.
fn at_end(task: Task) {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // SAFETY: the handler may be called at any time before the process ends.
        unsafe { libc::atexit(run_tasks) };
    });
    lock(&TASKS).push(task);
}

extern "C" fn run_tasks() {
    for task in std::mem::take(&mut *lock(&TASKS)) {
        task();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(u32);

    static DROPPED: Mutex<Vec<u32>> = Mutex::new(Vec::new());

    impl Drop for Thing {
        fn drop(&mut self) {
            lock(&DROPPED).push(self.0);
        }
    }

    #[test]
    fn it_is_made_once_and_goes_at_the_end() {
        static SHARED: Shared<Thing> = Shared::new();
        assert_eq!(SHARED.get(|| Thing(1)).0, 1);
        assert_eq!(SHARED.get(|| Thing(2)).0, 1);
        assert!(lock(&DROPPED).is_empty());
        run_tasks();
        assert_eq!(*lock(&DROPPED), [1]);
    }
}
