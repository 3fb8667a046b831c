//! Docker command lines, run with runc and with runcvm.
//!
//! ```no_run
//! use runcvm_tests::docker::Script;
//!
//! // With each runtime in turn; stdout, stderr and status must be the same.
//! Script::new("environment", "docker run --rm -e A=b busybox env").agrees();
//! // In a container that stays for all scripts: one of each runtime, see `Station`.
//! Script::new("user", "docker exec -u user $plain id").agrees();
//! ```
//!
//! A script is bash's, and all it asks of docker are ordinary commands; `prelude.sh` beside the
//! images' build gives `docker run` and `docker create` the runtime. The suites need the lab's
//! image: `tests/lab/run --image bookworm`.

pub(crate) mod daemon;
mod masked;
mod script;
mod station;

pub use daemon::Daemon;
pub use script::Script;
pub use station::Station;

/// What a container is run by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// The runtime that docker comes with.
    Runc,
    /// Ours.
    Runcvm,
}

impl Runtime {
    /// The name that docker knows it by.
    ///
    /// `RUNCVM_TEST_RUNTIME` names another one in place of ours: `runc` shows that a suite asks
    /// for what containers do.
    pub fn name(self) -> String {
        match self {
            Self::Runc => "runc".to_owned(),
            Self::Runcvm => {
                std::env::var("RUNCVM_TEST_RUNTIME").unwrap_or_else(|_| "runcvm".to_owned())
            }
        }
    }

    /// What names of its containers end in.
    fn suffix(self) -> &'static str {
        match self {
            Self::Runc => "-runc",
            Self::Runcvm => "-runcvm",
        }
    }
}
