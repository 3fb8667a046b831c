//! A command in a machine does what it does in a container: the same bytes on the same
//! streams, the same status, to the same signals and keys.
//!
//! Cases with [`pair`] run in a machine and a container that stay; the others boot one of
//! their own, for what only the workload itself can show. What differs between a machine and
//! a container for a reason is told where a case leaves it out.

mod arguments;
mod cwd;
mod environment;
mod files;
mod processes;
mod signals;
mod status;
mod stdin;
mod streams;
mod terminal;
mod users;

use std::sync::Arc;

use runcvm_tests::Pair;

/// The machine and the container of all cases that need none of their own.
fn pair() -> Arc<Pair> {
    Pair::shared()
}
