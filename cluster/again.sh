#!/usr/bin/env bash
# Runs a command up to three times: bash cluster/again.sh python jobs/mine.py ...
# What another try can mend (1: a machine's fault; killed by the kernel) is tried again after MER_RAY_AGAIN_SECONDS (60).
# The user's own end it: 0 done, 2 bad input, 3 too much quarantined, 130 and 143 stopped. The exit code is the last try's.
set -u
for try in 1 2 3; do
    "$@"
    code=$?
    case $code in
        0 | 2 | 3 | 130 | 143) break ;;
    esac
    [ "$try" = 3 ] && break
    echo "exit code $code at try $try of 3: once more in ${MER_RAY_AGAIN_SECONDS:=60} s" >&2
    sleep "$MER_RAY_AGAIN_SECONDS"
done
exit "$code"
