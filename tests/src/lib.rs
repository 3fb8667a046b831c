//! The harness of the end-to-end suites.
//!
//! ```no_run
//! use runcvm_tests::{Case, Pair, Rootfs, Vm};
//!
//! // A machine of its own over a private copy of the test root filesystem.
//! let output = Vm::new(&Rootfs::private()).args(["--cpus", "2"]).run(["nproc"]);
//! assert_eq!((output.out().as_str(), output.status), ("2\n", 0));
//!
//! // In the background: talk to it, run more commands in it.
//! let vm = Vm::new(&Rootfs::private()).stdin().start(["cat"]);
//! vm.write("hello\n");
//! vm.wait_for("hello\n");
//! assert_eq!(vm.exec().run(["hostname"]).status, 0);
//! vm.close_stdin();
//! vm.wait().succeeded();
//!
//! // The same command under runc must do the same.
//! Case::new(["sh", "-c", "echo out; echo err >&2; exit 3"]).agrees();
//!
//! // So must commands in a machine and a container that run already.
//! Pair::shared().agrees(&Case::sh("cat; exit 3").user("user").feed("typed"));
//! ```
//!
//! The suites need root and hardware KVM: `make e2e` runs them in the lab where the latter
//! is missing. They use the release binaries in `target/runcvm`, which `make build` makes.

mod bundle;
mod case;
mod cgroup;
mod compare;
pub mod docker;
mod host;
mod invocation;
mod net;
mod pair;
mod process;
mod project;
mod rootfs;
mod runc;
mod shared;
mod traces;
mod users;
mod vm;

pub use bundle::Bundle;
pub use case::Case;
pub use cgroup::{Cgroup, Member};
pub use host::{allow_files, md5, meminfo};
pub use invocation::Invocation;
pub use net::Tap;
pub use pair::Pair;
pub use process::{Output, Running};
pub use project::{binary, home, project};
pub use rootfs::{Rootfs, scratch};
pub use runc::RunningContainer;
pub use shared::Shared;
pub use traces::Traces;
pub use vm::{RunningVm, Vm, vmm};
