#!/bin/sh
# Managed by vllm-hosts. Keeps what HAProxy knows of its servers, for the next one. Where a server's port has changed,
# the file would win over the configuration: those lines stay out.
set -eu
umask 077
export LC_ALL=C
echo 'show servers state' | timeout 10 socat -t 10 - UNIX-CONNECT:/run/vllm-hosts-balancer/admin.sock |
    awk '
        FNR == NR && $1 == "backend" { pool = $2 }
        FNR == NR && $1 == "server" { port = $3; sub(/.*:/, "", port); there[pool, $2, port] }
        FNR == NR { next }
        FNR < 3 || ($2, $4, $19) in there
    ' /etc/vllm-hosts/balancer/haproxy.cfg - >/var/lib/vllm-hosts/balancer/servers.new
[ "$(head -n 1 /var/lib/vllm-hosts/balancer/servers.new)" = 1 ]
sync /var/lib/vllm-hosts/balancer/servers.new
mv -fT /var/lib/vllm-hosts/balancer/servers.new /var/lib/vllm-hosts/balancer/servers
