"""keepalived of a gateway that shares an address with others."""

from __future__ import annotations

from vllm_hosts.host.paths import KEEPALIVED_CONF, KEEPALIVED_RUN, KEEPALIVED_UNIT, WORK

#: Debian 12's ends itself where it tests a file with another script user than root; all else in the
#: file is tested as it is.
VALIDATE = f"""
tried=$(mktemp {WORK}) || exit 1
sed 's/^    script_user .*/    script_user root/' {KEEPALIVED_CONF} >"$tried"
keepalived --config-test --use-file="$tried"; code=$?
rm -f "$tried"; exit $code
""".strip()

#: Let keepalived read its file again, if it runs. It keeps the address that it has, and ends where
#: it cannot go on.
RELOAD = f"""
systemctl daemon-reload
if systemctl -q is-active {KEEPALIVED_UNIT}; then
    process=$(cat {KEEPALIVED_RUN}/vrrp.pid)
    systemctl reload {KEEPALIVED_UNIT} || exit 1
    sleep 2
    [ "$(cat {KEEPALIVED_RUN}/vrrp.pid)" = "$process" ] && kill -0 "$process" || {{
        echo 'keepalived does not take its new configuration; see journalctl -u {KEEPALIVED_UNIT}'
        exit 1
    }}
fi
""".strip()

#: What clients notice of a reload.
RELOADED = "keepalived is reloaded; the gateway that has the virtual address keeps it"
