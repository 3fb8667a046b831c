//! Limits of memory, processors and processes.

use crate::cases;

cases! {
    memory_and_processors_are_told: "docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}' $(docker run -d --name $n --memory 256m --cpus 0.5 busybox sleep 1000)";
    a_fraction_of_a_processor: "docker run --rm --cpus 0.5 busybox echo runs";
    a_set_of_processors: "docker run --rm --cpuset-cpus 0 busybox nproc";
    more_memory_than_it_has exits 137: "docker run --name $n --memory 128m --memory-swap 128m busybox sh -c 'tail /dev/zero; exit $?'; s=$?; echo $s; exit $s";
    stats_are_told: "docker stats --no-stream --format '{{.Name}} {{.PIDs}}' $plain | sed 's/ [1-9][0-9]*/ some/'";
    memory_of_stats: "docker stats --no-stream --format '{{.MemUsage}}' $plain | grep -c MiB";
    processes_of_top: "docker top $plain | tail -n +2 | wc -l | sed 's/[1-9][0-9]*/some/'";
    an_update: "docker run -d --name $n --memory 256m --memory-swap 256m busybox sleep 1000 >/dev/null; docker update --cpus 0.5 --memory 300m --memory-swap 300m $n; docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}' $n; docker exec $n echo alive";
    a_limit_of_processes_is_accepted: "docker run --rm --pids-limit 100 busybox echo ok";
    weights_are_accepted: "docker run --rm --cpu-shares 512 --blkio-weight 300 busybox echo ok 2>/dev/null";
    a_device_limit_is_accepted: "docker run --rm --memory-reservation 64m --memory-swappiness 0 busybox echo ok 2>/dev/null";
    a_busy_process_has_its_time: "docker exec $deb python3 -c 'import time; t = time.process_time(); \nwhile time.process_time() - t < 0.3: pass\nprint(\"done\")'";
}
