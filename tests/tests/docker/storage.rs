//! Volumes, bind mounts, tmpfs, and what docker makes of a container's files.

use crate::cases;

cases! {
    a_volume_is_written: "docker exec $store sh -c 'echo x >/vol/a; cat /vol/a'; docker run --rm -v $store-vol:/v busybox cat /v/a";
    a_volume_begins_with_the_image_s_files: "docker exec $store sh -c 'cd /seed; ls -1; cat file inner/file link; stat -c \"%n %a %u %g\" . inner file'";
    a_new_volume_is_empty: "docker exec $store sh -c 'ls -A /new/volume; stat -c \"%a %u\" /new /new/volume; touch /new/volume/x && echo written; rm /new/volume/x'";
    an_anonymous_volume: "docker exec $store sh -c 'touch /anonymous/x && ls /anonymous'";
    a_directory_of_the_host: "docker exec $store sh -c 'cat /dir/file; echo guest >/dir/guest'; cat /tmp/case/$store/dir/guest; rm /tmp/case/$store/dir/guest";
    a_change_on_the_host_is_seen_at_once: "d=/tmp/case/$store/dir; echo 1 >$d/live; docker exec $store cat /dir/live; echo 22 >$d/live; docker exec $store cat /dir/live; rm $d/live; docker exec $store cat /dir/live 2>&1; echo 3 >$d/live; docker exec $store cat /dir/live; rm $d/live";
    a_change_inside_is_seen_at_once: "d=/tmp/case/$store/dir; docker exec $store sh -c 'mkdir /dir/new; echo in >/dir/new/f'; cat $d/new/f; rm -r $d/new; docker exec $store ls /dir/new 2>&1; true";
    a_read_only_directory: "docker exec $store sh -c 'cat /dir-ro/file; echo x >/dir-ro/y'; docker exec $store sh -c 'rm /dir-ro/file'; true";
    a_read_only_mount: "docker exec $store sh -c 'cat /mount/file; touch /mount/y'; true";
    a_read_only_volume: "docker exec $store sh -c 'touch /vol/rw; ls /vol-ro/rw; touch /vol-ro/ro'; true";
    a_file_of_the_host: "docker exec $store sh -c 'cat /etc/one; echo more >>/etc/one'; cat /tmp/case/$store/one; echo one >/tmp/case/$store/one";
    a_read_only_file: "docker exec $store sh -c 'cat /one-ro; echo x >/one-ro'; true";
    a_mount_in_a_mount: "docker exec $store sh -c 'cat /dir/sub/file; touch /dir/sub/y && ls /dir/sub; rm /dir/sub/y'";
    options_of_a_tmpfs_mount: "docker exec $store sh -c 'stat -f -c %T /mt; stat -c %a /mt; df -k /mt | tail -n 1 | awk \"{ print \\$2 }\"'";
    a_tmpfs_is_full: "docker exec $store sh -c 'head -c 3000000 /dev/zero >/mt/big; ls -l /mt/big | awk \"{ print \\$5 }\"; rm /mt/big'; true";
    a_tmpfs_with_options: "docker exec $store sh -c 'stat -f -c %T /tm; df -k /tm | tail -n 1 | awk \"{ print \\$2 }\"; df -i /tm | tail -n 1 | awk \"{ print \\$2 }\"'";
    a_tmpfs_hides_what_is_below: "docker exec $store sh -c 'ls -A /home; touch /home/x && ls /home; stat -c %a /home'";
    a_tmpfs_of_a_user: "docker exec $rich sh -c 'stat -c \"%a %u\" /small; touch /small/x && echo written; cp /bin/busybox /small/b 2>/dev/null; printf \"#!/bin/sh\\necho run\" >/small/s; chmod +x /small/s; /small/s'; docker exec $rich rm -f /small/s /small/b /small/x";
    size_of_shared_memory: "docker exec $rich sh -c 'df -k /dev/shm | tail -n 1 | awk \"{ print \\$2 }\"; stat -f -c %T /dev/shm; stat -c %a /dev/shm'; docker exec $plain sh -c 'df -k /dev/shm | tail -n 1 | awk \"{ print \\$2 }\"'";
    options_of_mounts: "docker exec $store sh -c 'grep -E \" /(dir-ro|mount|vol-ro|one-ro) \" /proc/mounts | sed \"s/^[^ ]* //; s/ [^ ]* / /; s/[, ].*//\" | sort'";
    volumes_of_another: "echo host >file; docker create --name $n -v $PWD:/dir -v $n-seed:/seed -v /anonymous busybox true >/dev/null
        docker run --rm --volumes-from $n busybox sh -c 'cat /dir/file /seed/file; ls -d /anonymous'; docker rm $n >/dev/null; docker volume rm $n-seed >/dev/null";
    volumes_of_another_read_only: "echo host >file; docker create --name $n -v $PWD:/dir busybox true >/dev/null
        docker run --rm --volumes-from $n:ro busybox sh -c 'cat /dir/file; touch /dir/z'; ls";
    cp_out: "docker exec $plain sh -c 'mkdir -p /tmp/out/d; echo a >/tmp/out/a; echo b >/tmp/out/d/b; chmod 640 /tmp/out/a'; docker cp $plain:/tmp/out . ; find out -type f | sort | xargs stat -c '%n %a %s'; cat out/a";
    cp_out_as_tar: "docker exec $plain sh -c 'echo t >/tmp/t1'; docker cp $plain:/tmp/t1 - | tar -xO";
    cp_in: "mkdir -p in/d; echo a >in/a; echo b >in/d/b; docker cp in $plain:/tmp/; docker exec $plain sh -c 'cat /tmp/in/a /tmp/in/d/b; ls -l /tmp/in/a | cut -c1-10'";
    cp_over_a_file: "docker exec $plain sh -c 'echo old >/tmp/cp_over'; echo newer >f; docker cp f $plain:/tmp/cp_over; docker exec $plain cat /tmp/cp_over";
    cp_into_a_volume: "echo v >f; docker cp f $store:/vol/cp; docker exec $store cat /vol/cp";
    cp_from_one_that_ended: "docker run --name $n busybox sh -c 'echo result >/result'; docker cp $n:/result .; cat result";
    cp_into_one_that_is_created: "docker create --name $n busybox cat /given >/dev/null; echo given >f; docker cp f $n:/given; docker start -a $n";
    diff: "docker run --name $n busybox sh -c 'echo x >/added; rm /seed/file; echo y >>/etc/passwd; mkdir /dir; touch /dir/f'; docker diff $n | sort";
    diff_of_nothing: "docker run --name $n busybox true; docker diff $n; echo none";
    commit: "docker run --name $n busybox sh -c 'echo kept >/kept'; docker commit $n $n-image | wc -c; docker run --rm $n-image cat /kept; docker rmi -f $n-image >/dev/null";
    commit_of_a_running_one: "docker run -d --name $n busybox sh -c 'echo kept >/kept; sleep 1000' >/dev/null; until_ok docker exec $n test -s /kept; docker commit $n $n-image >/dev/null; docker exec $n echo unpaused; docker run --rm $n-image cat /kept; docker rmi -f $n-image >/dev/null";
    export: "docker run --name $n busybox sh -c 'echo e >/e'; docker export $n | tar -t | grep -E '^(e|etc/passwd|bin/busybox)$' | sort";
    build_with_a_command: "printf 'FROM busybox\\nRUN echo built >/built && chown user /built\\n' | docker build -q -t $n - >/dev/null; docker run --rm $n stat -c '%n %U' /built";
    many_files: "docker exec $plain sh -c 'mkdir /tmp/many; cd /tmp/many; i=0; while [ $i -lt 300 ]; do echo $i >$i; i=$((i+1)); done; ls | wc -l; cat * | md5sum; rm -r /tmp/many; ls /tmp/many 2>&1; true'";
    links_and_modes: "docker exec $plain sh -c 'mkdir /tmp/lm; cd /tmp/lm; echo a >f; ln f hard; ln -s f soft; chmod 4751 f; chown 1000:2000 f; stat -c \"%n %a %u %g %h\" f hard; readlink soft; mkfifo p; mknod n c 1 3; stat -c \"%n %F %t %T\" p n; mv f g; cat soft 2>&1; rm -r /tmp/lm'";
    a_sparse_file: "docker exec $plain sh -c 'truncate -s 1G /tmp/sparse; ls -l /tmp/sparse | awk \"{ print \\$5 }\"; du -k /tmp/sparse | cut -f 1; rm /tmp/sparse'";
    locks: "docker exec $deb python3 -c 'import fcntl; f = open(\"/tmp/l\", \"w\"); fcntl.flock(f, fcntl.LOCK_EX); g = open(\"/tmp/l\", \"w\")\ntry: fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept BlockingIOError: print(\"locked\")'";
    a_memory_map: "docker exec $deb python3 -c 'import mmap; f = open(\"/tmp/m\", \"w+b\"); f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[4096:4100] = b\"mark\"; m.flush(); f.seek(4096); print(f.read(4))'";
    owners_on_the_host: "docker exec -u user $store touch /tmp/x; docker exec $store sh -c 'touch /dir/owned; chown 1234:4321 /dir/owned'; stat -c '%u %g' /tmp/case/$store/dir/owned; rm /tmp/case/$store/dir/owned";
    a_source_that_is_made: "docker run --rm -v $PWD/made/by/docker:/m busybox touch /m/x; ls made/by/docker";
    a_source_that_is_missing: "docker run --rm --mount type=bind,src=$PWD/missing,dst=/m busybox true 2>&1 | grep -o 'bind source path does not exist'";
    a_target_that_is_made: "docker run --rm -v $PWD:/very/deep/place busybox sh -c 'stat -c \"%a %u\" /very/deep; touch /very/deep/place/x'; ls";
    an_image_s_own_volume: "printf 'FROM busybox\\nVOLUME /seed\\n' | docker build -q -t $n - >/dev/null; docker run --rm $n sh -c 'cat /seed/file; touch /seed/x && echo written'";
    a_socket_of_the_host: "socat UNIX-LISTEN:$PWD/s,fork EXEC:'echo answered' & until [[ -S s ]]; do sleep 0.1; done; docker run --rm -v $PWD/s:/run/s debian python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"/run/s\"); print(s.recv(100))'; kill %1";
}
