//! Kernels for machines.
//!
//! A [`Bundle`] is a kernel with all that a machine needs of it: an uncompressed vmlinux,
//! initramfs archives with the modules to load at boot, the tree of all modules, and a
//! [`Manifest`] that says what it is made of and what it can do. A [`Store`] holds bundles
//! by name; [`add()`] makes one of what an importer ([`import`]) took apart. [`vmlinux_of`]
//! boots an image that is in no bundle.

pub mod add;
pub mod boot;
pub mod build;
mod compression;
pub mod cpio;
mod digest;
pub mod features;
pub mod image;
pub mod import;
pub mod in_image;
mod manifest;
mod modules;
mod name;
pub mod os_release;
mod prefix;
pub mod rootfs;
mod store;

pub use add::{Added, add};
pub use boot::{Initramfs, NoDriver, Part};
pub use compression::DecompressError;
pub use image::{ImageError, vmlinux_of};
pub use manifest::{Manifest, Source};
pub use modules::ModuleError;
pub use name::{BadName, BundleName, compare_versions};
pub use prefix::Prefix;
pub use store::{Bundle, Store, StoreError};
