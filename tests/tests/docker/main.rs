//! Docker command lines: what they do with runcvm is what they do with runc.
//!
//! The containers that stay are in `stations.rs`; every other file is one area.

mod exec;
mod execution;
mod hostile;
mod lifecycle;
mod network;
mod resources;
mod stations;
mod storage;
mod streams;
mod terminal;

/// Each line is a case: a name, the status if it is not 0, and a script whose output and status
/// must be the same with both runtimes.
macro_rules! cases {
    ($($(#[$about:meta])* $name:ident $(exits $status:literal)?: $script:expr;)*) => {$(
        $(#[$about])*
        #[test]
        fn $name() {
            let output = runcvm_tests::docker::Script::new(stringify!($name), $script)
                .stations(&crate::stations::ALL)
                .agrees();
            let expected: &[i32] = &[$($status,)? 0];
            assert_eq!(output.status, expected[0], "{}{}", output.out(), output.err());
            assert!(
                !(output.stdout.is_empty() && output.stderr.is_empty()),
                "a case that prints nothing compares nothing"
            );
        }
    )*};
}
pub(crate) use cases;
