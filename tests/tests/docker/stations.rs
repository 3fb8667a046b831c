//! The containers that cases share.

use runcvm_tests::docker::Station;

pub(crate) static ALL: [Station; 6] = [
    Station {
        name: "plain",
        start: "docker run -d --name $self --hostname plain busybox sleep 1000000",
    },
    Station {
        name: "deb",
        start: "docker run -d --name $self --hostname deb debian sleep infinity",
    },
    // Everything that can be chosen for a process and its surroundings.
    Station {
        name: "rich",
        start: "docker run -d --name $self --hostname rich --domainname example.org \
            --user user --group-add crew --group-add 3000 --workdir /made/here \
            -e A='b c' -e EMPTY= -e LINES=$'one\\ntwo' -e ÄÖ=日本 \
            --ulimit nofile=100:200 --ulimit core=0 --ulimit nproc=77:88 \
            --sysctl net.ipv4.ip_local_port_range='10000 20000' --sysctl kernel.msgmax=4096 \
            --read-only --tmpfs /t --tmpfs /small:size=1m,mode=1770,uid=1000,noexec \
            --shm-size 10m --add-host somewhere:192.0.2.1 \
            --dns 192.0.2.53 --dns-search example.net --dns-option ndots:3 \
            --mac-address 02:00:00:00:12:34 --oom-score-adj 123 -l a=b \
            --security-opt no-new-privileges -v $PWD:/made \
            busybox sleep 1000000",
    },
    // Every kind of mount. Its directory on the host is /tmp/case/$store.
    Station {
        name: "store",
        start:
            "mkdir dir dir/sub outer; echo host >dir/file; echo one >one; echo nested >outer/file
            docker volume create $self-vol >/dev/null
            docker run -d --name $self --hostname store \
            -v $self-vol:/vol -v $self-seed:/seed -v $self-fresh:/new/volume -v /anonymous \
            -v $PWD/dir:/dir -v $PWD/dir:/dir-ro:ro -v $PWD/one:/etc/one -v $PWD/one:/one-ro:ro \
            -v $PWD/outer:/dir/sub \
            --mount type=bind,src=$PWD/dir,dst=/mount,readonly \
            --mount type=volume,src=$self-vol,dst=/vol-ro,readonly \
            --mount type=tmpfs,dst=/mt,tmpfs-size=1048576,tmpfs-mode=1750 \
            --tmpfs /tm:size=2m,nr_inodes=50 --tmpfs /home \
            busybox sleep 1000000",
    },
    // A server on a network of users' own, which is there from then on.
    Station {
        name: "web",
        start: "docker network create --driver bridge shared >/dev/null 2>&1
            docker run -d --name $self --hostname web --network shared --network-alias alias-$self \
            busybox sh -c 'httpd -h /var/www; exec nc -ll -p 7 -e cat'",
    },
    // A server on the default network.
    Station {
        name: "server",
        start: "docker run -d --name $self busybox httpd -f -h /var/www",
    },
];
