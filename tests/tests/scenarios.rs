//! What people run: web and name servers, databases, compose files, many containers at once, and
//! processes of ours that are killed.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use runcvm_tests::docker::{Runtime, Script};

/// Written by who counts what is left on the machine, which has others wait.
static OTHERS: RwLock<()> = RwLock::new(());

/// Runs a script with our runtime; it must succeed.
#[track_caller]
fn passes(name: &str, script: &str) -> String {
    let _shared = OTHERS.read().unwrap_or_else(PoisonError::into_inner);
    run(name, script)
}

/// As [`passes`], while no other does anything.
#[track_caller]
fn passes_alone(name: &str, script: &str) -> String {
    let _alone = OTHERS.write().unwrap_or_else(PoisonError::into_inner);
    run(name, script)
}

#[track_caller]
fn run(name: &str, script: &str) -> String {
    let output = Script::new(name, script)
        .timeout(Duration::from_secs(1200))
        .run(Runtime::Runcvm);
    assert_eq!(output.status, 0, "{}{}", output.out(), output.err());
    output.out()
}

/// Says how long the stop of the container `$n` takes, of which its process takes next to nothing.
const STOP: &str = "begin=$(date +%s%N); docker stop $n >/dev/null
    echo stopped with $(docker inspect -f '{{.State.ExitCode}}' $n) after $((($(date +%s%N) - begin) / 1000000)) ms";

#[test]
fn nginx_serves_the_host_and_containers_by_name() {
    let script = format!(
        "docker network create $n >/dev/null
        docker run -d --name $n --network $n -p 127.0.0.1:8081:80 --stop-signal QUIT services nginx -g 'daemon off;' >/dev/null
        until_ok curl -sf http://127.0.0.1:8081/ && curl -s http://127.0.0.1:8081/ | grep -c 'Welcome to nginx'
        docker run --rm --network $n services curl -s http://$n/ | grep -c 'Welcome to nginx'
        command docker run --rm --runtime runc --network $n services curl -s http://$n/ | grep -c 'Welcome to nginx'
        for i in 1 2 3 4 5 6 7 8; do curl -s http://127.0.0.1:8081/ & done | grep -c 'Welcome to nginx' ; wait
        {STOP}; docker rm $n >/dev/null; docker network rm $n >/dev/null"
    );
    let out = passes("nginx", &script);
    // A title and a heading.
    assert!(
        out.starts_with("2\n2\n2\n16\nstopped with 0 after "),
        "{out}"
    );
}

#[test]
fn a_name_server_answers_over_udp_and_tcp() {
    let script = "docker network create $n >/dev/null
        docker run -d --name $n --network $n -p 127.0.0.1:5354:53/udp -p 127.0.0.1:5354:53/tcp services \
            dnsmasq -k -u root --no-resolv --no-hosts --address=/answer.example/192.0.2.42 >/dev/null
        ask='dig +short +time=3 +tries=5 answer.example'
        docker run --rm --network $n services sh -c \"$ask @\\$(getent hosts $n | cut -d' ' -f1); $ask +tcp @\\$(getent hosts $n | cut -d' ' -f1)\"
        ip=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' $n)
        command docker run --rm --runtime runc --network $n services $ask @$ip
        command docker run --rm --runtime runc --network host services $ask -p 5354 @127.0.0.1
        docker exec $n $ask @127.0.0.1
        for how in +notcp +tcp; do docker exec $n dig +short $how $n @127.0.0.11 | grep -cFx $ip; done
        docker rm -f $n >/dev/null; docker network rm $n >/dev/null";
    // Docker's own server is there too, at the same port of another address.
    let expected = "192.0.2.42\n".repeat(5) + "1\n1\n";
    assert_eq!(passes("names", script), expected);
}

#[test]
fn mariadb_is_queried_by_name() {
    let script = format!(
        "docker network create $n >/dev/null
        docker run -d --name $n --network $n --memory 1G --cpus 1 -v $n-data:/var/lib/mysql services sh -c '
            mkdir -p /run/mysqld && chown mysql /run/mysqld /var/lib/mysql
            [ -d /var/lib/mysql/mysql ] || mariadb-install-db --user=mysql --auth-root-authentication-method=normal --skip-test-db >/dev/null
            for s in \"CREATE DATABASE IF NOT EXISTS shop\" \"CREATE OR REPLACE USER app IDENTIFIED BY \\\"secret\\\"\" \"GRANT ALL ON shop.* TO app\"; do echo \"$s;\"; done >/tmp/init.sql
            chmod 644 /tmp/init.sql; exec mariadbd --user=mysql --bind-address=0.0.0.0 --init-file=/tmp/init.sql' >/dev/null
        query() {{ command docker run --rm --runtime runc --network $n services mariadb -h $n -u app -psecret shop -Ne \"$1\"; }}
        for i in $(seq 60); do query 'SELECT 1' >/dev/null 2>&1 && break; sleep 2; done
        query 'CREATE TABLE t (a INT PRIMARY KEY, b TEXT); INSERT INTO t VALUES (1, \"one\"), (2, \"zwei\"); SELECT COUNT(*) FROM t'
        {STOP}; docker start $n >/dev/null
        for i in $(seq 60); do query 'SELECT 1' >/dev/null 2>&1 && break; sleep 2; done
        query 'SELECT b FROM t ORDER BY a'
        docker exec $n sh -c 'nproc; [ $(sed -n \"s/MemTotal: *\\([0-9]*\\) kB/\\1/p\" /proc/meminfo) -gt 850000 ] && echo a gigabyte'
        docker rm -f $n >/dev/null; docker volume rm $n-data >/dev/null; docker network rm $n >/dev/null"
    );
    let out = passes("mariadb", &script);
    assert!(out.starts_with("2\nstopped with 0 after "), "{out}");
    assert!(out.ends_with("one\nzwei\n1\na gigabyte\n"), "{out}");
}

#[test]
fn redis_keeps_its_data_in_a_volume() {
    let script = format!(
        "run() {{ docker run -d --name $n -v $n-data:/data services redis-server --dir /data --appendonly yes --protected-mode no >/dev/null; }}
        run; until_ok docker exec $n redis-cli ping
        docker exec $n redis-cli set greeting hello; {STOP}; docker rm $n >/dev/null
        run; until_ok eval \"docker exec $n redis-cli ping | grep PONG\"; docker exec $n redis-cli get greeting
        docker exec $n redis-cli set again kept; docker kill $n >/dev/null; docker start $n >/dev/null
        until_ok eval \"docker exec $n redis-cli ping | grep PONG\"; docker exec $n redis-cli get again
        docker rm -f $n >/dev/null; docker volume rm $n-data >/dev/null"
    );
    let out = passes("redis", &script);
    assert!(out.starts_with("OK\nstopped with 0 after "), "{out}");
    assert!(out.ends_with("hello\nOK\nkept\n"), "{out}");
}

#[test]
fn three_services_of_a_compose_file() {
    let script = "cat >docker-compose.yml <<END
version: '2.4'
services:
  store:
    image: services
    runtime: $RUNTIME
    command: redis-server --protected-mode no
    healthcheck: {test: [CMD, redis-cli, ping], interval: 2s, timeout: 30s, retries: 60}
  page:
    image: busybox
    runtime: $RUNTIME
    command: httpd -f -h /var/www
    healthcheck: {test: [CMD, wget, -qO-, 'http://127.0.0.1/'], interval: 2s, timeout: 30s, retries: 60}
  client:
    image: services
    runtime: $RUNTIME
    depends_on:
      store: {condition: service_healthy}
      page: {condition: service_healthy}
    command: sh -c 'redis-cli -h store set a 1; curl -s http://page/; redis-cli -h store get a'
END
        docker-compose -p comp up -d >/dev/null 2>&1 || docker-compose -p comp logs
        docker wait $(docker-compose -p comp ps -aq client 2>/dev/null || docker ps -aq --filter name=comp_client)
        docker logs $(docker ps -aq --filter name=comp.client)
        docker-compose -p comp down -t 5 >/dev/null 2>&1; docker ps -aq --filter name=comp | wc -l";
    let out = passes("compose", script);
    assert_eq!(out, "0\nOK\n<p>served</p>\n1\n0\n");
}

/// Processes, network interfaces, mounts and sockets of the host that a container might leave.
/// Docker removes the files of network namespaces once a minute, so only mounted ones count.
const LEFT: &str = "left() {
        ps -eo comm= | grep -E '^(runcvm|virtiofsd|containerd-shim)' | sort | uniq -c
        ip -o link | grep -c -E 'veth|tap'; grep -c -E 'overlay2|/netns/|runcvm/' /proc/mounts
        find /run/docker/runtime-runcvm /run/runcvm -mindepth 1 2>/dev/null | sort
        find /tmp -maxdepth 1 -name '*runcvm*' | sort; docker ps -aq | wc -l
    };";

#[test]
fn fifty_containers_leave_nothing() {
    let script = format!(
        "{LEFT} left >before
        for lane in 1 2 3 4 5 6 7 8 9 10; do
            for i in 1 2 3 4 5; do
                docker run --rm --memory 128m busybox sh -c \"echo $lane-$i; exit $i\" >out-$lane-$i
                [[ $? == $i ]] || echo wrong status of $lane-$i
            done &
        done; wait
        cat out-* | sort -u | wc -l
        for i in 1 2 3 4 5 6 7 8 9 10; do left >after; cmp -s before after && break; sleep 1; done; diff before after && echo nothing left"
    );
    assert_eq!(passes_alone("fifty", &script), "50\nnothing left\n");
}

#[test]
fn killing_any_process_of_ours_ends_the_container() {
    for victim in ["supervise", "machine", "virtiofsd"] {
        // While it boots, and when it is up.
        for ready in ["true", "docker exec $n true"] {
            let script = format!(
                "{LEFT} left >before
                docker run -d --name $n busybox sleep 1000 >/dev/null; {ready} || exit
                all() {{ echo $1; for child in $(cat /proc/$1/task/*/children 2>/dev/null); do all $child; done; }}
                strike() {{ for p in $(all $(docker inspect -f '{{{{.State.Pid}}}}' $n)); do
                    if [[ $(tr '\\0' ' ' </proc/$p/cmdline) == *{victim}* ]]; then kill -9 $p; return; fi; done; false; }}
                until_ok strike; timeout 60 docker wait $n >status || echo still runs
                [[ $(<status) != 0 ]] && echo ended
                docker rm $n >/dev/null && echo removed
                for i in 1 2 3 4 5 6 7 8 9 10; do left >after; cmp -s before after && break; sleep 1; done
                diff before after && echo nothing left"
            );
            let out = passes_alone("killed", &script);
            assert_eq!(out, "ended\nremoved\nnothing left\n", "{victim}, {ready}");
        }
    }
}

#[test]
fn an_installation_is_noticed_and_undone_without_disturbing_containers() {
    let script = "docker run -d --name $n busybox sleep 1000 >/dev/null
        program=/opt/runcvm/bin/runcvm-runtime; mkdir -p /tmp/second/bin; cp $program /tmp/second/bin/
        printf '{\\n\\t\"debug\": false,\\n\\t\"labels\": [\"a=b\"]\\n}' >daemon.json; cp daemon.json old
        /tmp/second/bin/runcvm-runtime install --no-reload --config $PWD/daemon.json | grep -c podman
        grep -o '\"/tmp/second/bin/runcvm-runtime\"' daemon.json
        /tmp/second/bin/runcvm-runtime uninstall --no-reload --config $PWD/daemon.json >/dev/null
        tr -d ' \\t\\n' <old | cmp - <(tr -d ' \\t\\n' <daemon.json) && echo as it was
        echo '{' >broken; $program install --config $PWD/broken; echo $?
        docker exec $n echo undisturbed";
    let out = passes("install", script);
    assert_eq!(
        out,
        "1\n\"/tmp/second/bin/runcvm-runtime\"\nas it was\n1\nundisturbed\n"
    );
}
