//! `docker exec`.

use crate::cases;

cases! {
    a_command_s_output: "docker exec $plain echo hi there";
    a_command_s_error_output: "docker exec $plain sh -c 'echo out; echo err >&2' 2>&1 >/dev/null";
    both_outputs_apart: "docker exec $plain sh -c 'echo out; echo err >&2; exit 3' >o 2>e; echo $?; cat o; echo -; cat e";
    status_one: "docker exec $plain false; echo $?";
    status_that_is_large: "docker exec $plain sh -c 'exit 255'; echo $?";
    status_42 exits 42: "echo x; docker exec $plain sh -c 'exit 42'";
    killed_by_a_signal exits 137: "echo x; docker exec $plain sh -c 'kill -9 $$'";
    ended_by_sigterm exits 143: "echo x; docker exec $plain sh -c 'kill $$; sleep 5'";
    a_program_that_is_missing: "docker exec $plain nowhere >/dev/null 2>&1; s=$?; ((s == 126 || s == 127)) && echo refused";
    a_path_that_is_missing: "docker exec $plain /no/where >/dev/null 2>&1; s=$?; ((s == 126 || s == 127)) && echo refused";
    a_file_that_is_no_program: "docker exec $plain /etc/passwd >/dev/null 2>&1; s=$?; ((s == 126 || s == 127)) && echo refused";
    a_directory_for_a_program: "docker exec $plain /etc >/dev/null 2>&1; s=$?; ((s == 126 || s == 127)) && echo refused";
    input_with_i: "printf 'a\\0b\\nlast' | docker exec -i $plain od -c";
    no_input_without_i: "echo lost | docker exec $plain wc -c";
    input_that_is_closed_at_once: "docker exec -i $plain cat </dev/null; echo $?";
    input_that_nobody_reads: "head -c 300000 /dev/zero | docker exec -i $plain true; echo ${PIPESTATUS[1]}";
    three_megabytes_in: "head -c 3000000 /dev/zero | docker exec -i $plain md5sum";
    output_of_a_megabyte: "docker exec $plain seq 1 150000 | md5sum";
    a_megabyte_there_and_back: "head -c 1000000 /dev/urandom >f; docker exec -i $plain cat <f | cmp - f && echo same";
    a_variable: "docker exec -e A=1 -e B='x y' -e C= $plain sh -c 'echo \"$A,$B,${C-unset}\"'";
    variables_of_a_file: "printf 'A=1\\n# no\\nB=x y\\n' >f; docker exec --env-file f $plain sh -c 'echo \"$A,$B\"'";
    the_container_s_variables: "docker exec $rich sh -c 'echo \"$A,${EMPTY-unset},$LINES\"'";
    all_variables: "docker exec $plain env | grep -v ^HOSTNAME | sort";
    a_variable_that_is_long: "docker exec -e L=$(head -c 100000 /dev/zero | tr '\\0' x) $plain sh -c 'echo ${#L}'";
    a_directory: "docker exec -w /usr/bin $plain pwd";
    a_directory_that_is_missing: "docker exec -w /not/there $plain pwd >/dev/null 2>&1; s=$?; ((s == 126 || s == 127)) && echo refused";
    the_container_s_directory: "docker exec $rich pwd";
    a_user: "docker exec -u user $plain id";
    a_user_s_number: "docker exec -u 1001 $plain id";
    a_user_nobody_knows: "docker exec -u 4242 $plain id";
    a_user_and_group: "docker exec -u user:crew $plain id";
    numbers_of_user_and_group: "docker exec -u 4242:4343 $plain id";
    a_name_nobody_knows: "docker exec -u who $plain id; echo $?";
    a_home_of_root: "docker exec $plain sh -c 'echo $HOME'";
    a_home_of_a_user: "docker exec -u user $plain sh -c 'echo $HOME'";
    a_home_of_nobody: "docker exec -u 4242 $plain sh -c 'echo $HOME'";
    the_container_s_user: "docker exec $rich id";
    in_the_background: "docker exec -d $plain sh -c 'echo done >/tmp/in_the_background'
        until_ok docker exec $plain test -s /tmp/in_the_background; docker exec $plain cat /tmp/in_the_background";
    what_stays_behind: "docker exec $plain sh -c 'sleep 4321 >/dev/null 2>&1 &'; docker exec $plain sh -c 'pidof sleep >/dev/null && ps | grep -c [4]321; kill $(ps | awk \"/sleep 432[1]/ { print \\$1 }\")'";
    privileged: "docker exec --privileged $plain id -u";
    arguments_with_everything: "docker exec $plain printf '[%s]\\n' '' ' ' $'a\\nb' '\"q\"' \"it's\" '$HOME' '*' '\\\\' 'äöü €' --";
    arguments_of_all_bytes_of_utf8: "docker exec $plain printf '%s' $'\\x01\\x02\\t\\x1b[0m\\x7f\\u0080\\u00ff\\uffff\\U1f980' | od -An -tx1";
    an_argument_that_is_long: "docker exec $plain sh -c 'echo ${#1}' sh $(head -c 100000 /dev/zero | tr '\\0' x)";
    many_arguments: "docker exec $plain sh -c 'echo $#' sh $(seq 1 3000)";
    host_name: "docker exec $plain hostname";
    processes_are_the_container_s: "docker exec $plain ps -o pid,comm | head -n 2";
    the_first_process: "docker exec $plain sh -c 'tr \"\\0\" \" \" </proc/1/cmdline; readlink /proc/1/exe'";
    the_first_process_s_variables: "docker exec $plain sh -c 'tr \"\\0\" \"\\n\" </proc/1/environ | grep -v HOSTNAME | sort'";
    streams_are_pipes: "docker exec $plain sh -c 'for f in 0 1 2; do readlink /proc/self/fd/$f | sed \"s/:.*//\"; done'";
    no_more_descriptors: "docker exec $plain ls /proc/self/fd | tr '\\n' ' '";
    signals_are_as_usual: "docker exec $plain sh -c 'grep -E \"Sig(Blk|Cgt)\" /proc/self/status'";
    umask_is_as_usual: "docker exec $plain sh -c umask";
    a_process_of_its_own_session: "docker exec $deb sh -c 'test $(ps -o sid= -p $$) = $$ && echo leads'";
    python_in_it: "docker exec $deb python3 -c 'import os, sys; print(os.getuid(), sys.argv[1:], os.getcwd())' a 'b c'";
    reaped_orphans: "docker exec $deb sh -c '(sleep 0.1 &) ; sleep 1; ps -eo stat= | grep -c Z'; true";
    of_a_container_that_does_not_run: "docker create --name $n busybox >/dev/null; docker exec $n true; echo $?";
    of_no_container: "docker exec nowhere true; echo $?";
    at_once_after_a_start: "docker run -d --name $n busybox sleep 1000 >/dev/null; docker exec $n echo ready";
    many_at_once: "for i in 1 2 3 4 5 6; do docker exec $plain echo $i >o$i & done; wait; cat o*";
    of_a_user_s_groups: "docker exec -u other $plain id -G; docker exec -u user $plain id -Gn";
    no_new_privileges_are_kept: "docker exec $rich grep NoNewPrivs /proc/self/status";
}
