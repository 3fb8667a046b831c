# shellcheck shell=bash
# shellcheck disable=SC2154 # $n is in the environment
# What each script of the docker suites begins with.
#   $RUNTIME   the runtime of its containers
#   $n         its own name, for what it makes; what it leaves goes with it, unless $keeping
docker() {
    case $1 in
    run | create) command docker "$1" --runtime "$RUNTIME" --label "case=$n-$RUNTIME" "${@:2}" ;;
    *) command docker "$@" ;;
    esac
}

# Waits until a command succeeds: until_ok COMMAND…; it says nothing.
until_ok() {
    for ((try = 0; try < 200; try++)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.3
    done
    echo "never succeeded: $*" >&2
    return 1
}

# Waits until a container has written a text: logged CONTAINER TEXT.
logged() { until_ok eval "docker logs $1 2>&1 | grep -qF -e '$2'"; }

# Waits until a container is in a state: state CONTAINER exited.
state() { until_ok eval "[[ \$(docker inspect -f '{{.State.Status}}' $1) == $2 ]]"; }

# shellcheck disable=SC2317 # called by the trap
clean() {
    local status=$? left
    if [[ $keeping ]]; then exit "$status"; fi
    left=$(command docker ps -aq --filter "label=case=$n-$RUNTIME")
    # shellcheck disable=SC2086 # a list of words
    if [[ $left ]]; then command docker rm -fv $left >/dev/null 2>&1; fi
    exit "$status"
}
trap clean EXIT
