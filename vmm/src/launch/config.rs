//! What the guest is told before it starts.

use runcvm_protocol::{ByteBuf, GuestConfig, Interface, Mount, MountSource};

use super::forward;
use super::share::{self, Opened};
use super::spec::{LaunchSpec, MountSpec};

/// Tag of the root filesystem's share.
pub(crate) const ROOT_TAG: &str = "root";

/// A share and the tag by which the guest knows it.
#[derive(Debug)]
pub(crate) struct Tagged {
    pub(crate) tag: String,
    pub(crate) opened: Opened,
}

/// Opens everything that is shared: the root filesystem, then the volumes. Returns what the
/// guest mounts over its root too.
pub(crate) fn open_shares(spec: &LaunchSpec) -> Result<(Vec<Tagged>, Vec<Mount>), share::Error> {
    let is_submount = |mount: &MountSpec| matches!(mount, MountSpec::Submount { .. });
    // A share that may not be written as a whole has nothing in it that may.
    let read_only = spec.root_read_only && !spec.mounts.iter().any(is_submount);
    let mut shares = vec![Tagged {
        tag: ROOT_TAG.into(),
        opened: share::open_root(&spec.rootfs, read_only)?,
    }];
    let mut mounts = Vec::new();
    for mount in &spec.mounts {
        mounts.push(match mount {
            MountSpec::Volume {
                source,
                target,
                read_only,
            } => {
                let opened = share::open_volume(source, *read_only)?;
                let tag = format!("share{}", shares.len());
                let file = opened.is_file().then(|| ByteBuf::from(share::FILE_NAME));
                shares.push(Tagged {
                    tag: tag.clone(),
                    opened,
                });
                Mount {
                    source: MountSource::Share { tag, file },
                    target: target.clone(),
                    read_only: *read_only,
                }
            }
            MountSpec::Tmpfs { target, options } => Mount {
                source: MountSource::Tmpfs {
                    options: options.clone(),
                },
                target: target.clone(),
                read_only: false,
            },
            MountSpec::Disk {
                id,
                filesystem,
                target,
                options,
            } => Mount {
                source: MountSource::Disk {
                    serial: id.clone(),
                    filesystem: filesystem.clone(),
                    options: options.clone(),
                },
                target: target.clone(),
                read_only: false,
            },
            MountSpec::Submount { target, read_only } => Mount {
                source: MountSource::Submount,
                target: target.clone(),
                read_only: *read_only,
            },
        });
    }
    Ok((shares, mounts))
}

/// All that the guest is told.
pub(crate) fn guest_config(
    spec: &LaunchSpec,
    mounts: Vec<Mount>,
    interfaces: Vec<Interface>,
) -> GuestConfig {
    GuestConfig {
        root_tag: ROOT_TAG.into(),
        root_read_only: spec.root_read_only,
        mounts,
        hostname: spec.hostname.clone(),
        domainname: spec.domainname.clone(),
        sysctls: spec.sysctls.clone(),
        cgroups: spec.cgroups,
        forwards: forward::for_guest(&spec.forwards),
        no_ipv6: spec.no_ipv6,
        interfaces,
        process: spec.process.clone(),
        init: spec.init,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn spec(rootfs: &Path, mounts: Vec<MountSpec>) -> LaunchSpec {
        LaunchSpec {
            mounts,
            ..super::super::spec::tests::minimal(rootfs)
        }
    }

    #[test]
    fn every_volume_is_a_share_and_a_mount() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("one");
        std::fs::write(&file, "x").unwrap();
        let volume = |source: &Path, target: &str, read_only| MountSpec::Volume {
            source: source.into(),
            target: target.as_bytes().to_vec().into(),
            read_only,
        };
        let spec = spec(
            dir.path(),
            vec![
                volume(dir.path(), "/data", true),
                MountSpec::Tmpfs {
                    target: b"/tmp".to_vec().into(),
                    options: b"size=1m".to_vec().into(),
                },
                volume(&file, "/etc/one", false),
            ],
        );
        let (shares, mounts) = open_shares(&spec).unwrap();
        let tags: Vec<_> = shares.iter().map(|s| s.tag.as_str()).collect();
        assert_eq!(tags, ["root", "share1", "share2"]);
        assert!(matches!(
            &mounts[0].source,
            MountSource::Share { tag, file: None } if tag == "share1"
        ));
        assert!(mounts[0].read_only);
        assert!(matches!(mounts[1].source, MountSource::Tmpfs { .. }));
        assert!(matches!(
            &mounts[2].source,
            MountSource::Share { tag, file: Some(f) } if tag == "share2" && f == "file"
        ));
    }

    #[test]
    fn a_root_that_is_a_file_and_a_volume_that_is_missing_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("one");
        std::fs::write(&file, "x").unwrap();
        let error = open_shares(&spec(&file, vec![])).unwrap_err();
        assert!(error.to_string().contains("is no directory"));
        open_shares(&spec(&dir.path().join("none"), vec![])).unwrap_err();
        let missing = MountSpec::Volume {
            source: dir.path().join("none"),
            target: b"/x".to_vec().into(),
            read_only: false,
        };
        open_shares(&spec(dir.path(), vec![missing])).unwrap_err();
        let special = MountSpec::Volume {
            source: "/dev/null".into(),
            target: b"/x".to_vec().into(),
            read_only: false,
        };
        open_shares(&spec(dir.path(), vec![special])).unwrap_err();
    }
}
