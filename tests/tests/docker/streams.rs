//! stdin, stdout and stderr of containers, attached and logged.

use crate::cases;

cases! {
    streams_of_a_run: "docker run --rm busybox sh -c 'echo out; echo err >&2' >o 2>e; cat o; echo -; cat e";
    input_of_a_run: "printf 'one\\ntwo' | docker run --rm -i busybox cat";
    no_input_of_a_run: "printf 'lost' | docker run --rm busybox wc -c";
    input_of_megabytes: "head -c 2000000 /dev/urandom >f; docker run --rm -i busybox cat <f | cmp - f && echo same";
    output_right_before_the_end: "docker run --rm busybox sh -c 'seq 1 100000' | md5sum";
    error_output_right_before_the_end: "docker run --rm busybox sh -c 'seq 1 50000 >&2' 2>&1 >/dev/null | md5sum";
    output_of_a_killed_process: "docker run --rm --init busybox sh -c 'echo last words; kill -9 $$'; echo $?";
    logs: "docker run --name $n busybox sh -c 'echo out; echo err >&2; printf partial' >/dev/null 2>&1; docker logs $n >o 2>e; cat o; echo; echo -; cat e";
    logs_of_a_background_container: "docker run -d --name $n busybox sh -c 'for i in 1 2 3; do echo line $i; done; sleep 1000' >/dev/null; logged $n 'line 3'; docker logs $n; docker logs --tail 1 $n";
    logs_that_are_followed: "docker run -d --name $n busybox sh -c 'echo a; sleep 2; echo b' >/dev/null; docker logs -f $n";
    attached_output_only: "docker run --rm -a stdout busybox sh -c 'echo out; echo err >&2'";
    attached_errors_only: "docker run --rm -a stderr busybox sh -c 'echo out; echo err >&2'";
    attached_input: "echo typed | docker run --rm -i -a stdin -a stdout busybox cat";
    an_identity_in_the_background: "docker run -d --name $n busybox sh -c 'echo x; sleep 1000' | wc -c; docker inspect -f '{{.State.Running}}' $n";
    attach_later: "docker run -d --name $n busybox sh -c 'until [ -e /tmp/go ]; do sleep 0.2; done; echo attached; echo errors >&2; sleep 1; exit 4' >/dev/null
        docker attach $n >o 2>e & sleep 2; docker exec $n touch /tmp/go; wait $!; echo $?; cat o; echo -; cat e";
    // Docker stops showing output when there is no more input.
    attach_with_input: "docker run -d -i --name $n busybox sh -c 'read line; echo got $line; sleep 5' >/dev/null
        { echo typed; logged $n got; sleep 1; } | docker attach $n; docker wait $n";
    start_attached: "docker create --name $n busybox sh -c 'echo started; exit 3' >/dev/null; docker start -a $n; echo $?; docker start -a $n; echo $?";
    start_with_input: "docker create -i --name $n busybox cat >/dev/null; echo typed | docker start -ai $n";
    output_that_is_binary: "docker run --rm busybox sh -c 'i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %o $i)\"; i=$((i+1)); done' | md5sum";
    a_broken_pipe_of_the_client: "docker run --rm busybox seq 1 1000000 | head -n 2";
    closing_input_ends_it: "docker run --rm -i busybox sh -c 'cat >/dev/null; echo end of input' </dev/null";
    output_of_background_children: "docker run --rm busybox sh -c '(sleep 1; echo child) & echo parent; wait'";
}
