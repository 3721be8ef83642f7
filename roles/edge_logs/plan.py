"""How large the edge's logs may grow, from settings. Touches no host."""

from __future__ import annotations

from vllm_hosts.host.files import Entry, File, Folder
from vllm_hosts.host.paths import EDGE_LOGS
from vllm_hosts.host.render import render
from vllm_hosts.host.systemctl import MAIN_PID
from vllm_hosts.settings.edge import Edge
from vllm_hosts.settings.types import in_bytes

LOGS = tuple(f"{EDGE_LOGS}/{name}.log" for name in ("access", "error"))
#: nginx's messages about itself, such as that it has too few connections. It has no request of
#: ours. The distribution rotates it daily, however large it is.
NGINX_LOG = "/var/log/nginx/error.log"
CONF = "/etc/vllm-hosts/edge-logs.conf"
SCRIPT = "/usr/local/lib/vllm-hosts/rotate-edge-logs"
STATE = "/var/lib/logrotate/vllm-hosts-edge"
_SERVICE = "vllm-hosts-edge-logs.service"
TIMER = "vllm-hosts-edge-logs.timer"
_UNITS = "/etc/systemd/system"
_REOPEN = (
    f"master=$({MAIN_PID} nginx.service);"
    ' [ "${master:-0}" -eq 0 ] || { kill -s USR1 "$master" && sleep 1; }'
)


def log_entries(edge: Edge) -> list[Entry]:
    """The logs' folder, and what limits their size."""
    return [
        # nginx's workers reopen the files by name: they may enter the folder, but not list it.
        Folder(EDGE_LOGS, mode=0o751, group="adm"),
        File(CONF, logrotate_conf(edge).encode()),
        Folder("/usr/local/lib/vllm-hosts"),
        File(SCRIPT, rotate_script(edge).encode(), mode=0o755),
        File(f"{_UNITS}/{_SERVICE}", render(f"edge_logs/{_SERVICE}.j2", script=SCRIPT).encode()),
        File(f"{_UNITS}/{TIMER}", render(f"edge_logs/{TIMER}.j2").encode()),
    ]


def logrotate_conf(edge: Edge, *, folder: str = EDGE_LOGS, nginx_log: str = NGINX_LOG) -> str:
    """logrotate's configuration. Its sizes need capital letters."""
    return render(
        "edge_logs/logrotate.conf.j2",
        folder=folder,
        nginx_log=nginx_log,
        size=edge.log_max_size.replace("m", "M").replace("g", "G"),
        files=edge.log_max_files,
        reopen=_REOPEN,
    )


def rotate_script(
    edge: Edge, *, folder: str = EDGE_LOGS, conf: str = CONF, state: str = STATE
) -> str:
    """The script that rotates, and then keeps room free."""
    return render(
        "edge_logs/rotate.sh.j2",
        folder=folder,
        conf=conf,
        state=state,
        reserve=in_bytes(edge.log_reserve) // 1024,
    )
