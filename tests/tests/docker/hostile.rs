//! Images whose files are not what their names say. `/sentinel` of the host is where their links
//! lead if anybody follows them outside of the image.

use crate::cases;

cases! {
    links_at_every_place_that_is_mounted: "mkdir -p /sentinel; docker run --rm hostile echo ran; find /sentinel -mindepth 1";
    a_directory_that_is_a_link: "mkdir -p /sentinel; docker run --rm -w /mnt hostile pwd 2>/dev/null; echo $?; find /sentinel -mindepth 1";
    a_volume_at_a_link: "mkdir -p /sentinel v; echo inside >v/f; docker run --rm -v $PWD/v:/mnt hostile sh -c 'cat /mnt/f'; find /sentinel -mindepth 1";
    a_tmpfs_at_a_link: "mkdir -p /sentinel; docker run --rm --tmpfs /tmp hostile sh -c 'touch /tmp/x && ls /tmp'; find /sentinel -mindepth 1";
    a_tmpfs_at_a_fifo: "mkdir -p /sentinel; docker run --rm --tmpfs /var hostile true >/dev/null 2>&1; s=$?; ((s)) && echo refused; find /sentinel -mindepth 1";
    a_file_at_a_link: "mkdir -p /sentinel; echo file >f; docker run --rm -v $PWD/f:/etc/hosts hostile cat /etc/hosts; find /sentinel -mindepth 1";
    users_of_a_link: "mkdir -p /sentinel; timeout 60 docker run --rm -u 0:0 hostile id -u; find /sentinel -mindepth 1";
    groups_that_are_binary: "docker run --rm -u 5:6 hostile id -u; echo $?";
    exec_in_it: "mkdir -p /sentinel; docker run -d --name $n hostile sleep 1000 >/dev/null; docker exec $n echo in; docker rm -f $n; find /sentinel -mindepth 1";
    an_os_release_that_is_binary: "mkdir c; head -c 5000 /dev/urandom >c/r; printf 'FROM busybox\\nCOPY r /etc/os-release\\n' >c/Dockerfile; docker build -q -t $n c >/dev/null; docker run --rm $n echo ran";
    an_os_release_that_is_a_link_outside: "printf 'FROM busybox\\nRUN ln -s /../../../../etc/shadow /etc/os-release\\n' | docker build -q -t $n - >/dev/null; docker run --rm $n echo ran";
    an_os_release_that_is_a_fifo: "printf 'FROM busybox\\nRUN mkfifo /etc/os-release\\n' | docker build -q -t $n - >/dev/null; timeout 60 docker run --rm $n echo ran";
    names_that_are_long: "docker run --rm busybox sh -c 'd=/$(printf %0200d 0); mkdir $d && cd $d && touch $(printf %0255d 1) && ls | wc -c'";
    names_of_every_byte: "docker run --rm busybox sh -c 'cd /tmp; i=1; while [ $i -lt 256 ]; do [ $i = 47 ] || touch \"$(printf \"x\\\\$(printf %o $i)y\")\"; i=$((i+1)); done; ls | md5sum; ls | wc -l'";
}
