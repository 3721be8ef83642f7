"""HAProxy of a gateway, while it runs."""

from __future__ import annotations

from vllm_hosts.host.balancer import asking
from vllm_hosts.host.paths import BALANCER_UNIT

#: Reload HAProxy if it runs, and wait until a process with the new configuration serves: the reload
#: itself returns earlier, and where that process cannot start, the old one goes on.
RELOAD = f"""
systemctl daemon-reload
if systemctl -q is-active {BALANCER_UNIT}; then
    {asking()}
    process() {{ ask admin 'show info' 2>/dev/null | sed -n 's/^Pid: //p'; }}
    before=$(process)
    systemctl reload {BALANCER_UNIT} || exit 1
    until=$(($(date +%s) + 60)); now=
    while [ "$(date +%s)" -lt "$until" ]; do
        now=$(process)
        [ -z "$now" ] || [ "$now" = "$before" ] || break
        sleep 0.1
    done
    [ -n "$now" ] && [ "$now" != "$before" ] || {{
        echo 'HAProxy does not take up its new configuration; see journalctl -u {BALANCER_UNIT}'
        exit 1
    }}
fi
""".strip()

#: What clients notice of a reload.
RELOADED = "HAProxy is reloaded; open requests are finished, and no connection is refused"
