//! From a specification to a running machine.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{Backlog, listen};
use runcvm_kernels::{Part, Prefix};
use runcvm_protocol::{CONFIG_PATH, WORKLOAD_PORT};
use rustix::thread::CapabilitySet;

use super::config::{self, Tagged};
use super::console::{self, Console};
use super::control::ControlServer;
use super::disk::DiskSpec;
use super::forward::{self, Forwarder};
use super::kernel::{self, Kernel};
use super::net::Net;
use super::privileges;
use super::process::MachineProcess;
use super::rundir::{self, RunDir};
use super::share::{Service, Share};
use super::signals::{Signals, is_first_process};
use super::spec::LaunchSpec;
use super::streams::Io;
use super::supervise::{Awaited, Started, Supervisor};
use super::terminal::Saved;
use super::timings::{Timings, now};
use super::watcher::Watcher;
use super::{Error, Outcome, disk, host, net, share, system};
use crate::spec::{Content, DeviceSpec, InitramfsPart, MachineSpec, Transport};

/// Commands that can wait to be taken by the agent.
const BACKLOG: i32 = 1024;

/// Boots the machine, runs its workload on `io`, and returns how that ended. `started` is when
/// this began ([`now`]), for the timings. Nothing is left of the machine afterwards.
pub fn run(spec: &LaunchSpec, io: Io, started: u64) -> Result<Outcome, Error> {
    let mut timings = Timings::new(started);
    timings.launch = Some(now());
    // Whatever can be refused is refused before anything is started.
    let resources = Resources::open(spec)?;

    let signals = Signals::take().map_err(system("Signals cannot be taken"))?;
    let run_dir = RunDir::acquire(&rundir::base()?, &spec.name)?;
    fs::write(rundir::config_file(run_dir.path()), &resources.config)
        .map_err(system("The run directory cannot be written"))?;
    let terminal = io.stdin.as_ref().and_then(|fd| Saved::of(fd.as_fd()));
    let watcher = Watcher::start(run_dir.path(), terminal.as_ref())
        .map_err(system("The watching process cannot be started"))?;
    drop(terminal);

    let (started, spawned) = start(spec, resources, io, &run_dir)?;
    timings.spawned = Some(spawned);
    if is_first_process() {
        // What is left to do here needs no more than to end the others.
        privileges::keep_only(CapabilitySet::KILL)
            .map_err(system("Capabilities cannot be given up"))?;
    }
    let outcome = Supervisor::new(spec, started, &signals, timings).run();
    drop(run_dir);
    drop(watcher);
    outcome
}

/// What a machine is made of, found and open.
struct Resources {
    /// Programs that are installed with us.
    init: PathBuf,
    virtiofsd: PathBuf,
    kernel: Kernel,
    shares: Vec<Tagged>,
    disks: Vec<File>,
    nets: Vec<Net>,
    /// The guest's encoded configuration.
    config: Vec<u8>,
}

impl Resources {
    fn open(spec: &LaunchSpec) -> Result<Self, Error> {
        host::check_size(spec)?;
        let prefix = Prefix::find();
        let init = installed(prefix.libexec("runcvm-init"))?;
        let virtiofsd = installed(prefix.libexec("virtiofsd"))?;
        let (shares, mounts) = config::open_shares(spec)?;
        let disks = spec.disks.iter().map(disk::open);
        let disks = disks.collect::<Result<Vec<_>, _>>()?;
        let kernel = kernel::resolve(&prefix, spec.kernel.as_deref(), &parts(spec))?;
        host::check_kvm()?;
        let nets = spec.nets.iter().enumerate();
        let nets = nets.map(|(index, net)| net::open(net, index));
        let nets = nets.collect::<Result<Vec<_>, _>>()?;
        let interfaces = nets.iter().map(|net| net.interface.clone()).collect();
        Ok(Self {
            init,
            virtiofsd,
            kernel,
            shares,
            disks,
            nets,
            config: config::guest_config(spec, mounts, interfaces).encode(),
        })
    }
}

/// Starts the shares' daemons and the machine process; returns when the latter was started.
fn start(
    spec: &LaunchSpec,
    resources: Resources,
    io: Io,
    run_dir: &RunDir,
) -> Result<(Started, u64), Error> {
    let mut devices = Devices::default();
    let forwarder = Forwarder::start(&run_dir.vsock_socket(), &spec.forwards).map_err(system(
        "The process for the guest's connections cannot be started",
    ))?;
    let service = Service {
        cache: spec.cache,
        sys_admin: spec.sys_admin,
    };
    let shares = devices.add_shares(&resources.virtiofsd, service, resources.shares, run_dir)?;
    devices.add_disks(&spec.disks, resources.disks);
    devices.add_nets(resources.nets);
    let root = privileges::can_become_nobody().then(|| run_dir.path().to_owned());
    let listener = devices.add_vsock(run_dir, root.is_some())?;
    let console = if console::is_wanted(spec.init, &spec.process) {
        Some(devices.add_console()?)
    } else {
        None
    };
    devices.list.push(DeviceSpec::Rng);
    let serial = if spec.kernel_log {
        let stderr = io.stderr.try_clone();
        Some(devices.give(stderr.map_err(system("stderr cannot be shared with the machine"))?))
    } else {
        None
    };
    let control = ControlServer::new(&run_dir.control_socket())
        .map_err(system("The control socket cannot be made"))?;
    let machine = MachineSpec {
        name: spec.name.clone(),
        cpus: spec.cpus,
        memory: spec.memory,
        huge_pages: spec.huge_pages,
        kernel: resources.kernel.vmlinux.clone(),
        initramfs: initramfs(resources.kernel, resources.init, resources.config),
        append: spec.append.clone(),
        verbose_kernel: spec.kernel_log,
        transport: spec.transport,
        devices: devices.list,
        serial,
        root,
        control: -1,
    };
    let spawned = now();
    // Its copies of disks, taps and sockets are the only ones once this function ends.
    let machine = MachineProcess::start(machine, &devices.fds)
        .map_err(system("The machine process cannot be started"))?;
    let workload = Awaited {
        listener,
        io,
        console,
    };
    let started = Started {
        machine,
        shares,
        forwarder,
        control,
        workload,
    };
    Ok((started, spawned))
}

fn installed(program: PathBuf) -> Result<PathBuf, Error> {
    if program.exists() {
        Ok(program)
    } else {
        Err(Error::NotInstalled(program))
    }
}

/// Parts of a bundle's initramfs for what every machine need not have.
fn parts(spec: &LaunchSpec) -> Vec<Part> {
    let mut parts = Vec::new();
    if spec.transport == Transport::Mmio {
        parts.push(Part::Mmio);
    }
    if !spec.nets.is_empty() {
        parts.push(Part::Net);
    }
    if !spec.disks.is_empty() {
        parts.push(Part::Disk);
    }
    parts
}

fn initramfs(kernel: Kernel, init: PathBuf, config: Vec<u8>) -> Vec<InitramfsPart> {
    let mut initramfs = kernel.initramfs;
    initramfs.push(InitramfsPart::File {
        path: "/init".into(),
        mode: 0o755,
        content: Content::Path(init),
    });
    initramfs.push(InitramfsPart::File {
        path: CONFIG_PATH.into(),
        mode: 0o600,
        content: Content::Bytes(config),
    });
    initramfs
}

/// The machine's devices, and the descriptors that it inherits for them.
#[derive(Default)]
struct Devices {
    list: Vec<DeviceSpec>,
    fds: Vec<OwnedFd>,
}

impl Devices {
    fn give(&mut self, fd: impl Into<OwnedFd>) -> RawFd {
        let fd = fd.into();
        let raw = fd.as_raw_fd();
        self.fds.push(fd);
        raw
    }

    fn add_shares(
        &mut self,
        virtiofsd: &Path,
        service: Service,
        shares: Vec<Tagged>,
        run_dir: &RunDir,
    ) -> Result<Vec<Share>, Error> {
        let mut started = Vec::new();
        for (index, Tagged { tag, opened }) in shares.into_iter().enumerate() {
            let (share, client) = share::start(virtiofsd, service, opened, run_dir, index)?;
            started.push(share);
            let socket = self.give(client);
            self.list.push(DeviceSpec::Fs { tag, socket });
        }
        Ok(started)
    }

    fn add_disks(&mut self, specs: &[DiskSpec], disks: Vec<File>) {
        for (spec, disk) in specs.iter().zip(disks) {
            let fd = self.give(disk);
            self.list.push(DeviceSpec::Block {
                fd,
                read_only: spec.read_only,
                id: spec.id.clone(),
                queues: spec.queues,
            });
        }
    }

    fn add_nets(&mut self, nets: Vec<Net>) {
        for net in nets {
            let tap = self.give(net.tap);
            self.list.push(DeviceSpec::Net {
                tap,
                mac: net.mac,
                mtu: Some(net.mtu),
            });
        }
    }

    fn add_console(&mut self) -> Result<Console, Error> {
        let (console, ends) =
            Console::new().map_err(system("The console's pipes cannot be made"))?;
        let (input, output) = (self.give(ends.input), self.give(ends.output));
        self.list.push(DeviceSpec::Console {
            input: Some(input),
            output,
        });
        Ok(console)
    }

    /// Adds the sockets between host and guest; returns where the workload's session arrives.
    /// The machine process may have the run directory for its root.
    fn add_vsock(&mut self, run_dir: &RunDir, is_root: bool) -> Result<UnixListener, Error> {
        const WHAT: &str = "The machine's sockets cannot be made";
        let mut prefix = run_dir.vsock_socket();
        let workload = forward::listen(&prefix, WORKLOAD_PORT).map_err(system(WHAT))?;
        workload.set_nonblocking(true).map_err(system(WHAT))?;
        let listener = UnixListener::bind(&prefix).map_err(system(WHAT))?;
        let backlog = Backlog::new(BACKLOG).expect("a positive backlog");
        listen(&listener, backlog).map_err(system(WHAT))?;
        let listener = self.give(listener);
        if is_root {
            prefix = Path::new("/").join(prefix.file_name().expect("it is a file's"));
        }
        self.list.push(DeviceSpec::Vsock { listener, prefix });
        Ok(workload)
    }
}
