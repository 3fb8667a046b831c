//! Where the time of one `docker run` went: what the kernel's trace tells of the container's
//! processes, and what runcvm tells of its machine.

use std::collections::HashMap;

use runcvm_vmm::launch::Timings;

use crate::trace::{Event, What};

/// The phases in order, by what begins with each. Those that a runtime does not have stay
/// empty.
pub(crate) const PHASES: [&str; 20] = [
    "docker run",
    "containerd's shim",
    "runtime create",
    "runc takes over",
    "first process made",
    "runtime start",
    "supervise",
    "jail ready",
    "network ready",
    "virtiofsd",
    "machine process",
    "KVM ready",
    "first KVM entry",
    "guest's kernel",
    "guest's PID 1",
    "command",
    "command's exit",
    "first process gone",
    "runtime delete",
    "container gone",
];

/// When each of [`PHASES`] began.
pub(crate) type Times = [Option<u64>; PHASES.len()];

/// An execution of a program.
#[derive(Clone, Debug)]
struct Exec {
    at: u64,
    task: u32,
    file: String,
}

/// What the tasks of one container did: its shim, and all that it started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Container {
    /// By the shim's command line.
    pub(crate) id: Option<String>,
    execs: Vec<Exec>,
    /// When tasks ended, by number.
    exits: HashMap<u32, u64>,
    /// Tasks that the runtime's `create` started, and theirs.
    inside: Vec<u32>,
    create: Option<u32>,
}

/// Sorts events by containers.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    all: Vec<Container>,
    /// The container that each task is of.
    owners: HashMap<u32, usize>,
    /// When other tasks executed something last, and when they ended.
    others: HashMap<u32, (Option<u64>, Option<u64>)>,
}

impl Containers {
    /// Takes what happened next. `id_of` tells the container's ID of a shim that runs.
    pub(crate) fn take(&mut self, event: Event, id_of: impl Fn(u32) -> Option<String>) {
        let Event { at, task, what } = event;
        if let What::Exec { file } = &what
            && name(file).starts_with("containerd-shim")
        {
            let owner = *self.owners.entry(task).or_insert_with(|| {
                self.all.push(Container::default());
                self.all.len() - 1
            });
            let container = &mut self.all[owner];
            container.id = container.id.take().or_else(|| id_of(task));
        }
        match (self.owners.get(&task).copied(), what) {
            (Some(owner), What::Fork { child }) => {
                self.owners.insert(child, owner);
                self.all[owner].forked(task, child);
            }
            (None, What::Fork { child }) => {
                // The number may have been that of another.
                self.owners.remove(&child);
                self.others.remove(&child);
            }
            (Some(owner), What::Exec { file }) => {
                self.all[owner].executed(Exec { at, task, file });
            }
            (None, What::Exec { .. }) => self.others.entry(task).or_default().0 = Some(at),
            (Some(owner), What::Exit) => {
                self.all[owner].exits.insert(task, at);
            }
            (None, What::Exit) => self.others.entry(task).or_default().1 = Some(at),
        }
    }

    /// When the docker command that is process `pid` began and ended.
    pub(crate) fn command(&self, pid: u32) -> (Option<u64>, Option<u64>) {
        self.others.get(&pid).copied().unwrap_or_default()
    }

    pub(crate) fn with_id(&self, id: &str) -> Option<&Container> {
        self.all.iter().find(|c| c.id.as_deref() == Some(id))
    }
}

impl Container {
    fn forked(&mut self, parent: u32, child: u32) {
        self.inside.retain(|&task| task != child);
        if self.create == Some(parent) || self.inside.contains(&parent) {
            self.inside.push(child);
        }
    }

    fn executed(&mut self, exec: Exec) {
        if self.create.is_none() && !name(&exec.file).starts_with("containerd-shim") {
            self.create = Some(exec.task);
        }
        self.execs.push(exec);
    }

    /// The phases, with what runcvm said of its machine, if it is one.
    pub(crate) fn times(
        &self,
        command: (Option<u64>, Option<u64>),
        machine: Option<&Timings>,
    ) -> Times {
        let find = |wanted: &dyn Fn(&&Exec) -> bool| self.execs.iter().find(wanted);
        let create = find(&|e| Some(e.task) == self.create);
        let is_inside = |task: u32| self.create == Some(task) || self.inside.contains(&task);
        let is_runtime = |e: &&Exec| {
            !is_inside(e.task) && create.is_some_and(|c| c.file == e.file && c.at < e.at)
        };
        let start = find(&|e| is_runtime(e));
        let delete = self.execs.iter().rfind(is_runtime);
        let delete = delete.filter(|d| start.is_some_and(|s| s.at < d.at));
        let after = |at: Option<u64>, wanted: &dyn Fn(&Exec) -> bool| {
            let at = at?;
            find(&|e| e.at > at && wanted(e))
        };
        let created = create.map(|e| e.at);
        let takes_over = after(created, &|e| Some(e.task) == self.create);
        let made = after(created, &|e| self.inside.contains(&e.task));
        let first = after(start.map(|e| e.at), &|e| self.inside.contains(&e.task));
        let at = |exec: Option<&Exec>| exec.map(|e| e.at);
        let gone = first.and_then(|first| self.exits.get(&first.task).copied());
        let mut times = [None; PHASES.len()];
        let mut set = |phase: &str, at: Option<u64>| {
            let index = PHASES.iter().position(|p| *p == phase);
            times[index.expect("one of the phases")] = at;
        };
        set("docker run", command.0);
        set("containerd's shim", at(self.execs.first()));
        set("runtime create", created);
        set("runc takes over", at(takes_over));
        set("first process made", at(made));
        set("runtime start", at(start));
        set("first process gone", gone);
        set("runtime delete", at(delete));
        set("container gone", command.1);
        match machine {
            None => {
                set("command", at(first));
                set("command's exit", gone);
            }
            Some(machine) => {
                let stage = after(at(first), &|e| first.is_some_and(|f| f.task == e.task));
                let daemon = after(at(first), &|e| name(&e.file) == "virtiofsd");
                set("supervise", at(first));
                set("jail ready", at(stage));
                set("network ready", machine.launch);
                set("virtiofsd", at(daemon));
                set("machine process", machine.spawned);
                set("KVM ready", machine.kvm_ready);
                set("first KVM entry", machine.first_entry);
                set("guest's kernel", machine.kernel);
                set("guest's PID 1", machine.init);
                set("command", machine.command);
                set("command's exit", machine.exit);
            }
        }
        times
    }
}

fn name(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(containers: &mut Containers, events: &[(u64, u32, What)]) {
        for (at, task, what) in events {
            let event = Event {
                at: *at,
                task: *task,
                what: what.clone(),
            };
            containers.take(event, |task| (task == 11).then(|| "id".into()));
        }
    }

    fn exec(file: &str) -> What {
        What::Exec { file: file.into() }
    }

    fn fork(child: u32) -> What {
        What::Fork { child }
    }

    fn of(times: &Times, phase: &str) -> Option<u64> {
        times[PHASES.iter().position(|p| *p == phase).unwrap()]
    }

    #[test]
    fn a_container_of_runc() {
        let mut containers = Containers::default();
        take(
            &mut containers,
            &[
                (1, 5, exec("/usr/bin/docker")),
                (2, 10, exec("/usr/bin/containerd-shim-runc-v2")),
                (3, 10, fork(11)),
                (4, 11, exec("/usr/bin/containerd-shim-runc-v2")),
                (5, 11, fork(20)),
                (6, 20, exec("/usr/bin/runc")),
                (7, 20, fork(21)),
                (8, 21, exec("/proc/self/exe")),
                (9, 21, fork(22)),
                (10, 11, fork(30)),
                (11, 30, exec("/usr/bin/runc")),
                (12, 22, exec("/bin/true")),
                (13, 22, What::Exit),
                (14, 11, fork(40)),
                (15, 40, exec("/usr/bin/runc")),
                (16, 5, What::Exit),
            ],
        );
        let container = containers.with_id("id").unwrap();
        let times = container.times(containers.command(5), None);
        let told: Vec<_> = PHASES
            .iter()
            .zip(times)
            .filter_map(|(phase, at)| Some((*phase, at?)))
            .collect();
        assert_eq!(
            told,
            [
                ("docker run", 1),
                ("containerd's shim", 2),
                ("runtime create", 6),
                ("first process made", 8),
                ("runtime start", 11),
                ("command", 12),
                ("command's exit", 13),
                ("first process gone", 13),
                ("runtime delete", 15),
                ("container gone", 16),
            ]
        );
        assert!(containers.with_id("other").is_none());
    }

    #[test]
    fn a_container_of_runcvm() {
        let mut containers = Containers::default();
        let runtime = "/opt/runcvm/bin/runcvm-runtime";
        take(
            &mut containers,
            &[
                (2, 11, exec("/usr/bin/containerd-shim-runc-v2")),
                (5, 11, fork(20)),
                (6, 20, exec(runtime)),
                (7, 20, exec("/usr/bin/runc")),
                (8, 20, fork(21)),
                (9, 21, exec("/proc/self/exe")),
                (10, 11, fork(30)),
                (11, 30, exec(runtime)),
                (12, 30, exec("/usr/bin/runc")),
                (13, 21, exec("/proc/self/fd/3")),
                (14, 21, exec(runtime)),
                (15, 21, fork(22)),
                (16, 22, exec("/opt/runcvm/libexec/virtiofsd")),
                (30, 21, What::Exit),
                (31, 11, fork(40)),
                (32, 40, exec(runtime)),
            ],
        );
        let machine = Timings {
            command: Some(20),
            exit: Some(25),
            ..Timings::default()
        };
        let container = containers.with_id("id").unwrap();
        let times = container.times((Some(1), Some(40)), Some(&machine));
        for (phase, at) in [
            ("runc takes over", 7),
            ("first process made", 9),
            ("runtime start", 11),
            ("supervise", 13),
            ("jail ready", 14),
            ("virtiofsd", 16),
            ("command", 20),
            ("command's exit", 25),
            ("first process gone", 30),
            ("runtime delete", 32),
            ("container gone", 40),
        ] {
            assert_eq!(of(&times, phase), Some(at), "{phase}");
        }
        assert_eq!(of(&times, "KVM ready"), None);
    }

    #[test]
    fn a_number_may_be_given_again() {
        let mut containers = Containers::default();
        take(
            &mut containers,
            &[
                (1, 11, exec("/usr/bin/containerd-shim-runc-v2")),
                (2, 11, fork(20)),
                (3, 20, What::Exit),
                (4, 1, fork(20)),
                (5, 20, exec("/usr/bin/docker")),
                (6, 20, What::Exit),
            ],
        );
        assert_eq!(containers.command(20), (Some(5), Some(6)));
    }
}
