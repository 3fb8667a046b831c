//! Starting, stopping, killing, pausing, waiting.

use crate::cases;

cases! {
    stop_reaches_the_process: "docker run -d --name $n busybox sh -c 'trap \"echo stopped; exit 9\" TERM; echo up; while :; do sleep 0.1; done' >/dev/null
        logged $n up; docker stop $n; docker logs $n; docker inspect -f '{{.State.ExitCode}} {{.State.OOMKilled}}' $n";
    stop_with_the_image_s_own_signal: "printf 'FROM busybox\\nSTOPSIGNAL SIGQUIT\\n' | docker build -q -t $n - >/dev/null
        docker run -d --name $n $n sh -c 'trap \"echo quit; exit 4\" QUIT; echo up; while :; do sleep 0.1; done' >/dev/null
        logged $n up; docker stop $n; docker logs $n; docker wait $n";
    stop_with_a_chosen_signal: "docker run -d --name $n --stop-signal SIGUSR1 busybox sh -c 'trap \"echo usr1; exit 5\" USR1; echo up; while :; do sleep 0.1; done' >/dev/null
        logged $n up; docker stop $n; docker logs $n; docker wait $n";
    stop_that_is_not_heard: "docker run -d --name $n busybox sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.1; done' >/dev/null
        logged $n up; docker stop -t 2 $n; docker inspect -f '{{.State.ExitCode}}' $n";
    stop_has_its_timeout: "docker run -d --name $n --stop-timeout 1 busybox sh -c 'echo up; exec sleep 1000' >/dev/null; logged $n up; docker stop $n; docker wait $n";
    kill_ends_it: "docker run -d --name $n busybox sleep 1000 >/dev/null; docker kill $n; docker wait $n";
    kill_with_signals: "docker run -d --name $n busybox sh -c 'for s in HUP INT USR1 USR2 TERM CONT WINCH; do trap \"echo $s\" $s; done; trap \"echo bye; exit 3\" QUIT; echo up; while :; do sleep 0.1; done' >/dev/null
        logged $n up; for s in HUP INT USR1 USR2 TERM CONT WINCH; do docker kill -s $s $n >/dev/null; logged $n $s; done
        docker kill -s QUIT $n; docker wait $n; docker logs $n";
    kill_by_number: "docker run -d --name $n busybox sh -c 'trap \"echo ten; exit 10\" 10; echo up; while :; do sleep 0.1; done' >/dev/null
        logged $n up; docker kill -s 10 $n; docker wait $n; docker logs $n";
    kill_with_a_real_time_signal: "docker run -d --name $n busybox sh -c 'trap \"echo rt; exit 11\" 37; echo up; while :; do sleep 0.1; done' >/dev/null
        logged $n up; docker kill -s RTMIN+3 $n; docker wait $n; docker logs $n";
    a_signal_without_handler_does_nothing: "docker run -d --name $n busybox sleep 1000 >/dev/null; docker kill -s USR1 $n; sleep 1; docker inspect -f '{{.State.Running}}' $n";
    restart_starts_anew: "docker run -d --name $n busybox sh -c 'echo up; touch /tmp/was; ls /tmp; trap \"exit 0\" TERM; while :; do sleep 0.1; done' >/dev/null
        logged $n was; docker restart $n; until_ok eval \"docker logs $n | grep -c up | grep -x 2\"; docker logs $n; docker inspect -f '{{.State.Running}} {{.RestartCount}}' $n";
    stop_and_start_keep_files: "docker run -d --name $n busybox sh -c 'echo run >>/count; sleep 1000' >/dev/null; until_ok docker exec $n test -s /count
        docker kill $n >/dev/null; docker start $n; until_ok docker exec $n grep -c run /count; docker exec $n cat /count";
    restart_on_failure: "docker run -d --name $n --restart on-failure:2 busybox sh -c 'echo try; exit 6' >/dev/null
        until_ok eval \"[[ \\$(docker inspect -f '{{.RestartCount}} {{.State.Status}}' $n) == '2 exited' ]]\"; docker logs $n; docker inspect -f '{{.State.ExitCode}}' $n";
    restart_always: "docker run -d --name $n --restart always busybox sh -c 'echo again; sleep 0.5' >/dev/null
        until_ok eval \"docker logs $n | grep -c again | grep -x 2\"; docker rm -f $n";
    rm_of_a_running_one: "docker run -d --name $n busybox sleep 1000 >/dev/null; docker rm $n 2>/dev/null; echo $?; docker rm -f $n; docker inspect $n >/dev/null 2>&1; echo $?";
    rm_leaves_nothing: "docker run --rm --name $n busybox true; docker ps -aq --filter name=$n; echo none";
    pause_and_unpause: "docker run -d --name $n busybox sh -c 'while :; do echo tick >>/ticks; sleep 0.2; done' >/dev/null; until_ok docker exec $n test -s /ticks
        docker pause $n; docker inspect -f '{{.State.Status}}' $n; docker exec $n true 2>/dev/null; echo $?; sleep 2; docker unpause $n; docker exec $n echo alive";
    the_clock_after_a_pause: "docker run -d --name $n busybox sleep 1000 >/dev/null; docker pause $n >/dev/null; sleep 4; docker unpause $n >/dev/null; sleep 2
        a=$(date +%s); g=$(docker exec $n date +%s); b=$(date +%s); ((a - 1 <= g && g <= b + 1)) && echo right || echo $g is not between $a and $b";
    rename: "docker run -d --name $n busybox sleep 1000 >/dev/null; docker rename $n $n-new; docker exec $n-new echo renamed; docker inspect -f '{{.State.Running}}' $n-new";
    wait_for_the_end: "docker run -d --name $n busybox sh -c 'sleep 1; exit 77' >/dev/null; docker wait $n";
    status_zero: "docker run --rm busybox true; echo $?";
    status_of_exit_255: "docker run --rm busybox sh -c 'exit 255'; echo $?";
    status_of_exit_128: "docker run --rm busybox sh -c 'exit 128'; echo $?";
    an_orderly_exit_of_many_processes: "docker run --rm busybox sh -c 'for i in 1 2 3 4 5; do sleep 1000 & done; echo left; exit 3'; echo $?";
    a_state_that_is_told: "docker create --name $n busybox sh -c 'exit 3' >/dev/null; docker inspect -f '{{.State.Status}}' $n; docker start $n; docker wait $n; docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}' $n";
    started_twice: "docker create --name $n busybox sh -c 'echo run; exit 1' >/dev/null; docker start -a $n; docker start -a $n; docker logs $n";
    ps_shows_it: "docker ps --filter name=^$plain\\$ --format '{{.Names}} {{.Image}} {{.Command}} {{.State}}'";
    ended_by_exec: "docker run -d --name $n busybox sh -c 'trap \"exit 8\" TERM; echo up; while :; do sleep 0.1; done' >/dev/null; logged $n up; docker exec $n kill 1; docker wait $n";
    creating_without_starting: "docker create --name $n busybox true | wc -c; docker rm $n";
    a_stop_of_one_that_ended: "docker run --name $n busybox true; docker stop $n; docker kill $n 2>/dev/null; echo $?";
}
