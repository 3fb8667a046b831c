//! Containers that stay, for scripts that do not disturb each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use super::{Runtime, Script};

/// A container that is started for the first script that names it, once with each runtime, and
/// stays.
#[derive(Clone, Copy, Debug)]
pub struct Station {
    /// What scripts call it: `$NAME`.
    pub name: &'static str,
    /// A script that starts the container `$self`.
    pub start: &'static str,
}

/// Those that are started, or being started: others wait meanwhile.
type Started = Mutex<HashMap<(&'static str, Runtime), Arc<OnceLock<()>>>>;

impl Station {
    /// The name of its container.
    pub(super) fn container(&self, runtime: Runtime) -> String {
        format!("{}{}", self.name, runtime.suffix())
    }

    /// Starts it if it is not there.
    pub(super) fn ensure(&self, runtime: Runtime) {
        static STARTED: OnceLock<Started> = OnceLock::new();
        let started = STARTED.get_or_init(Started::default);
        let cell = {
            let mut started = started.lock().expect("nobody panics with it");
            Arc::clone(started.entry((self.name, runtime)).or_default())
        };
        cell.get_or_init(|| {
            let output = Script::new(self.name, self.start)
                .variable("self", &self.container(runtime))
                .keeping()
                .run(runtime);
            // Each script that names it fails by itself if it is not there.
            if output.status != 0 {
                eprintln!(
                    "{} does not start with {}: {}{}",
                    self.name,
                    runtime.name(),
                    output.out(),
                    output.err()
                );
            }
        });
    }
}
