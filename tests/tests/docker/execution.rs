//! What `docker run` chooses for a process and its surroundings.

use crate::cases;

cases! {
    output_and_status exits 7: "docker run --rm busybox sh -c 'echo out; echo err >&2; exit 7'";
    default_command: "echo 'echo from $0' | docker run --rm -i busybox";
    a_program_that_run_does_not_find exits 127: "docker run --rm busybox nowhere 2>/dev/null; s=$?; echo $s; exit $s";
    a_file_that_run_cannot_execute exits 126: "docker run --rm busybox /etc/passwd 2>/dev/null; s=$?; echo $s; exit $s";
    an_entrypoint: "docker run --rm --entrypoint /bin/echo busybox one 'two three'";
    an_entrypoint_of_the_image: "printf 'FROM busybox\\nENTRYPOINT [\"echo\", \"entry\"]\\nCMD [\"default\"]\\nENV A=image\\nUSER user\\nWORKDIR /deep/er\\n' | docker build -q -t $n - >/dev/null
        docker run --rm $n; docker run --rm $n given; docker run --rm --entrypoint sh $n -c 'id; pwd; echo $A'";
    an_init: "docker run --rm --init busybox sh -c 'ps -o comm | head -n 3 | grep -v ps; exit 5'; echo $?";
    killed_by_its_own_signal: "docker run --rm --init busybox sh -c 'kill -9 $$'; echo $?";
    a_shell_that_is_first: "docker run --rm busybox sh -c 'echo $$; kill -TERM $$; echo still there'";
    variables_of_the_client: "A=mine docker run --rm -e A -e B=x busybox sh -c 'echo $A $B'";
    variables_of_the_run: "docker run --rm -e HOME=/x -e PATH=/bin busybox env | grep -v HOSTNAME | sort";
    variables_from_a_file: "printf 'A=1\\nB=x y z\\n' >f; docker run --rm --env-file f busybox sh -c 'echo $A-$B'";
    all_variables_of_a_run: "docker run --rm --hostname h busybox env | sort";
    a_directory_that_is_made: "docker run --rm --workdir /not/yet/there busybox sh -c 'pwd; stat -c \"%a %u\" .'";
    a_domain_name: "docker exec $rich sh -c 'hostname; hostname -f; cat /proc/sys/kernel/domainname'";
    supplementary_groups: "docker exec $rich sh -c 'grep Groups /proc/1/status'";
    the_user_of_the_first_process: "docker exec $rich sh -c 'grep -E \"^[UG]id\" /proc/1/status'";
    a_user_s_home: "docker run --rm -u user busybox sh -c 'echo $HOME; id; pwd'";
    limits: "docker exec $rich sh -c 'ulimit -Hn; ulimit -c; grep processes /proc/1/limits'";
    limits_of_an_ordinary_container: "docker exec $plain sh -c 'ulimit -n; ulimit -u; ulimit -c; ulimit -l'";
    sysctls: "docker exec $rich cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/msgmax";
    a_read_only_root: "docker exec -u root $rich sh -c 'touch /x; touch /etc/x; touch /t/x && echo t; touch /dev/shm/x && echo shm; rm /t/x /dev/shm/x'";
    writable_places_of_a_read_only_root: "docker exec -u root $rich sh -c 'for d in /proc /sys /dev /run /tmp; do touch $d/x 2>/dev/null && { echo $d; rm $d/x; }; done'; true";
    names_of_hosts: "docker exec $rich sh -c 'grep -v rich /etc/hosts'";
    its_own_name_in_hosts: "docker exec $rich sh -c 'grep rich /etc/hosts | cut -f 2-'";
    name_servers: "docker exec $rich cat /etc/resolv.conf";
    file_of_the_host_name: "docker exec $rich cat /etc/hostname";
    kernel_s_host_name: "docker exec $rich uname -n";
    no_new_privileges: "docker exec $rich grep NoNewPrivs /proc/1/status";
    oom_score: "docker exec $rich cat /proc/1/oom_score_adj";
    devices: "docker exec $plain sh -c 'cd /dev; ls -d full null random tty urandom zero fd stdin stdout stderr ptmx pts shm mqueue; for l in fd stdin stdout stderr; do readlink $l; done'";
    devices_work: "docker exec $plain sh -c 'head -c 3 /dev/zero | od -An -tx1; echo x >/dev/null; head -c 5 /dev/urandom | wc -c; echo x >/dev/full'; true";
    modes_of_devices: "docker exec $plain stat -c '%n %a %t %T' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty";
    filesystems_of_the_kernel: "docker exec $plain sh -c 'for d in /proc /sys /dev/pts /dev/mqueue /dev/shm; do echo $d $(stat -f -c %T $d); done'";
    process_numbers_begin_at_one: "docker run --rm busybox sh -c 'echo $$'";
    no_zombies_of_init: "docker run --rm --init busybox sh -c '(sleep 0.2 &); sleep 1; ps -o stat,comm | grep -c ^Z'; true";
    an_image_s_root: "docker exec $deb ls -d /bin /etc /home /usr /var /root /opt /srv /mnt /tmp";
    privileged_is_accepted: "docker run --rm --privileged busybox id -u";
    capabilities_are_accepted: "docker run --rm --cap-add SYS_TIME --cap-drop MKNOD busybox id -u";
    security_options_are_accepted: "docker run --rm --security-opt seccomp=unconfined --security-opt apparmor=unconfined busybox echo ok";
    labels_and_metadata: "docker inspect -f '{{.Config.Labels.a}} {{.State.Status}} {{.Config.Hostname}} {{.Config.User}} {{.Path}} {{.Args}}' $rich";
    standard_error_of_a_missing_entrypoint: "docker run --rm busybox nowhere 2>&1 | grep -o 'exec: \"nowhere\": executable file not found in $PATH'";
    a_health_check: "docker run -d --name $n --health-cmd 'test -e /tmp/well' --health-interval 1s --health-retries 2 busybox sh -c 'sleep 3; touch /tmp/well; sleep 1000' >/dev/null
        until_ok eval \"docker inspect -f '{{.State.Health.Status}}' $n | grep -x healthy\"; docker inspect -f '{{.State.Health.Status}}' $n
        docker exec $n rm /tmp/well; until_ok eval \"docker inspect -f '{{.State.Health.Status}}' $n | grep -x unhealthy\"; docker inspect -f '{{.State.Health.Status}}' $n";
    an_environment_of_a_megabyte: "for i in $(seq 1 30); do echo V$i=$(head -c 35000 /dev/zero | tr '\\0' $((i % 10))); done >f
        docker run --rm --env-file f busybox sh -c 'env | grep ^V | wc -c; env | grep ^V | sort | md5sum'";
    arguments_of_run: "docker run --rm busybox printf '[%s]\\n' '' ' ' $'a\\nb' '\"q\"' \"it's\" '$HOME' '\\\\' 'äöü €' $'\\x01\\x7f' --";
}
