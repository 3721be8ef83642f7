#!/bin/sh
# Managed by vllm-hosts. Removes expired keys from the edge. Run by a timer, and before nginx
# starts; a run that fails is repeated a minute later.
set -eu
umask 077
cd /etc/nginx/vllm-hosts
[ -e clients.map ] || exit 0
ended='match($0, /# until [0-9]+$/) && substr($0, RSTART + 8) + 0 <= now'
now=$(date +%s)
# Nothing is written if no key has expired and nothing is left to do.
awk -v now="$now" "$ended { found = 1 } END { exit !found }" clients.map ||
    [ -e expiry.pending ] || exit 0
: >expiry.pending
awk -v now="$now" "$ended { next } { print }" clients.map >clients.map.vllm-hosts-new
sync clients.map.vllm-hosts-new
mv -f clients.map.vllm-hosts-new clients.map
if systemctl -q is-active nginx.service; then
    nginx -t -q
    systemctl reload nginx.service
fi
# What nginx has loaded, in the form in which a deploy records it.
for file in clients.map scopes.map; do
    printf '%s %s\n' "/etc/nginx/vllm-hosts/$file" "$(sha256sum <"$file" | cut -d ' ' -f 1)"
done | LC_ALL=C sort | sha256sum | cut -d ' ' -f 1 | tr -d '\n' >/var/lib/vllm-hosts/stamps/client-keys.new
mv -f /var/lib/vllm-hosts/stamps/client-keys.new /var/lib/vllm-hosts/stamps/client-keys
# And in the host's record of what was deployed: this change was ordered.
if [ -e /var/lib/vllm-hosts/deployed ]; then (
    flock 9
    sum=$(sha256sum <clients.map)
    awk -v path="/etc/nginx/vllm-hosts/clients.map" '$2 != path' /var/lib/vllm-hosts/deployed >/var/lib/vllm-hosts/deployed.new
    echo "${sum%% *}  /etc/nginx/vllm-hosts/clients.map" >>/var/lib/vllm-hosts/deployed.new
    LC_ALL=C sort -o /var/lib/vllm-hosts/deployed.new /var/lib/vllm-hosts/deployed.new
    mv -f /var/lib/vllm-hosts/deployed.new /var/lib/vllm-hosts/deployed
) 9>>/var/lib/vllm-hosts/deployed.lock; fi
rm -f expiry.pending
