//! Shared directories and files, memory filesystems, and disks.

mod disks;
mod shares;
mod sharing;
mod tree;
