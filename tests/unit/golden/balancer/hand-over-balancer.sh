#!/bin/sh
# Managed by vllm-hosts. HAProxy ends what it has while another one may already start: systemd kills nothing of this
# unit. Its argument is the master that is to end; without one, another is about to start.
set -eu
cd /run/vllm-hosts-balancer
if [ $# -gt 0 ]; then
    # Who finds no socket waits in nginx, and who has connected already is taken up.
    rm -f in.*.sock admin.sock
    sleep 0.3
    # Whoever counts what runs asks the old one there.
    mv -f master.sock "master.$1.sock" || :
    kill -USR1 "$1"
    exit
fi
# One that was not told to end, as after a start that was broken off, would never do so.
while read -r pid; do
    if grep -qsx haproxy "/proc/$pid/comm" && grep -qsx 'PPid:.1' "/proc/$pid/status" && [ ! -S "master.$pid.sock" ]; then
        kill -KILL "$pid"
    fi
done <"/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/cgroup.procs"
for one in master.*.sock; do
    pid=${one#master.} pid=${pid%.sock}
    [ -d "/proc/$pid" ] || rm -f "$one"
done
