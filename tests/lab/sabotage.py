"""Ways to break a promise on a host, and which promises are broken then: those, and no others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Sabotage:
    """One way to break promises on gpu1.

    ``broken`` are exactly the promises that the suite must then find broken; where ``blind``, it
    may find others that cannot be checked. A deploy heals it. Where it refuses to run instead, it
    says ``refused``; there, and where nobody but the owner can heal it, ``undo`` does.
    """

    name: str
    do: str
    broken: frozenset[str]
    undo: str = ""
    refused: str = ""
    blind: bool = False
    #: Part of every run of the tests; the others are for the night.
    usual: bool = False
    #: Promises that this row needs and others leave out, since they take long.
    also: tuple[str, ...] = field(default=())


def _row(
    name: str,
    broken: str,
    do: str,
    *,
    undo: str = "",
    refused: str = "",
    kind: Literal["", "usual", "blind", "usual blind"] = "",
    also: tuple[str, ...] = (),
) -> Sabotage:
    return Sabotage(
        name,
        do,
        frozenset(broken.split()),
        undo,
        refused,
        "blind" in kind,
        "usual" in kind,
        also,
    )


CONF = "/etc/nginx/conf.d/vllm-hosts.conf"
MAPS = "/etc/nginx/vllm-hosts"
RELOAD = "nginx -t -q && systemctl reload nginx && sleep 1"
IMAGE = "$(docker inspect tiny --format '{{.Config.Image}}')"
KEY = "$(sed -n 's/^VLLM_API_KEY=//p' /opt/vllm/.env)"


def _listen(where: str, how: str = "") -> str:
    """A listener of a stranger, with what every lab host has."""
    return f"systemd-run -q --unit lab-stranger systemd-socket-activate {how} -l {where} /bin/cat"


def _conf(edit: str, path: str = CONF) -> str:
    return f"sed -i '{edit}' {path} && {RELOAD}"


def _compose(edit: str) -> str:
    """Agent spare recreated from a changed compose file; it is the last one in it."""
    return (
        f"cd /opt/vllm && sed -i '/^  spare:/,$ {{ {edit} }}' compose.yaml &&"
        " docker compose --progress quiet up -d --no-deps spare"
    )


def _container(options: str) -> str:
    return (
        f"docker run -d -q --name lab-stranger {options} --entrypoint sleep {IMAGE} 600 && sleep 1"
    )


_HEALTHY = (
    " && for a in tiny spare; do i=0; until docker inspect $a --format '{{.State.Health.Status}}'"
    " | grep -q ^healthy; do sleep 2; i=$((i+1)); [ $i -lt 120 ] || exit 1; done; done"
)
_GONE = "docker rm -f lab-stranger"
_NO_STRANGER = "systemctl stop lab-stranger"
#: A program of another version in front of the real one: PATH, name, option, what it says.
_FAKE = (
    'printf \'#!/bin/sh\\ncase "$*" in %s) echo "%s" >&{fd}; exit;; esac\\nexec {real} "$@"\\n\''
    " '{when}' '{says}' >/usr/local/sbin/{name} && chmod 755 /usr/local/sbin/{name}"
)


def _old(
    row: str, broken: str, real: str, when: str, says: str, package: str, fd: int = 1
) -> Sabotage:
    """A program that says it is old, without the changelog in which its holes are mended."""
    name = real.rpartition("/")[2]
    fake = _FAKE.format(real=real, name=name, when=when, says=says, fd=fd)
    docs, away = f"/usr/share/doc/{package}", "/var/tmp/lab-doc"
    return _row(
        row,
        broken,
        f"{fake} && mkdir -p {away} && mv {docs}/changelog.* {away}/",
        undo=f"rm /usr/local/sbin/{name}; mv {away}/* {docs}/",
    )


SABOTAGE = [
    # The host itself
    _row(
        "clock-wrong",
        "HOST-01",
        "printf '#!/bin/sh\\necho 1700000000.0\\n' >/usr/local/bin/date"
        " && chmod 755 /usr/local/bin/date",
        undo="rm /usr/local/bin/date",
    ),
    _row(
        "setuid-shell",
        "HOST-02",
        "cp /bin/sh /usr/local/bin/lab-shell && chmod 4755 /usr/local/bin/lab-shell",
        undo="rm /usr/local/bin/lab-shell",
        kind="usual",
    ),
    _row("docker-member", "HOST-03", "gpasswd -a alice docker", undo="gpasswd -d alice docker"),
    # Docker
    _row("docker-not-at-boot", "DOCKER-01", "systemctl disable docker.service"),
    _row(
        "compose-is-old",
        "DOCKER-02",
        "mkdir -p /root/.docker/cli-plugins && cd /root/.docker/cli-plugins &&"
        " printf '#!/bin/sh\\ncase $1 in docker-cli-plugin-metadata) echo"
        ' \'"\'"\'{"SchemaVersion":"0.1.0","Vendor":"x","Version":"1.29.2"}\'"\'"\'; exit;; esac\\n'
        "echo 1.29.2\\n' >docker-compose && chmod 755 docker-compose",
        undo="rm -r /root/.docker",
        refused="`docker compose` is",
    ),
    _row(
        "log-rotation-lost",
        "DOCKER-03",
        'sed -i \'s/"max-file": "3"/"max-file": "9"/\' /etc/docker/daemon.json',
        kind="usual",
    ),
    _row(
        "binding-to-everything",
        "DOCKER-04",
        'sed -i \'s/"ip": "127.0.0.1"/"ip": "0.0.0.0"/\' /etc/docker/daemon.json',
    ),
    _row(
        "live-restore-off",
        "DOCKER-05",
        'sed -i \'s/"live-restore": true/"live-restore": false/\' /etc/docker/daemon.json &&'
        " systemctl reload docker && sleep 1",
    ),
    _row(
        "container-published",
        "DOCKER-06 NET-01",
        _container("-p 0.0.0.0:9090:80"),
        undo=_GONE,
        refused="0.0.0.0:9090",
        kind="usual",
    ),
    _row("container-on-host-network", "DOCKER-07", _container("--network host"), undo=_GONE),
    _row(
        "docker-on-tcp",
        "DOCKER-08 NET-01",
        "mkdir -p /etc/systemd/system/docker.service.d && printf '[Service]\\nExecStart=\\n"
        "ExecStart=/usr/sbin/dockerd -H fd:// -H tcp://0.0.0.0:2375"
        " --containerd=/run/containerd/containerd.sock\\n'"
        " >/etc/systemd/system/docker.service.d/lab.conf"
        " && systemctl daemon-reload && systemctl restart docker && sleep 2" + _HEALTHY,
        undo="rm /etc/systemd/system/docker.service.d/lab.conf && systemctl daemon-reload"
        " && systemctl restart docker && sleep 2",
        refused="2375",
    ),
    _row("container-privileged", "DOCKER-09", _container("--privileged"), undo=_GONE),
    _row(
        "container-with-docker-socket",
        "DOCKER-09",
        _container("-v /var/run/docker.sock:/var/run/docker.sock"),
        undo=_GONE,
    ),
    _row(
        "archive-with-another-key",
        "DOCKER-10",
        "cp /etc/apt/keyrings/nvidia-container-toolkit.asc /etc/apt/keyrings/docker.asc",
    ),
    # GPUs
    _row("toolkit-unheld", "GPU-01", "apt-mark unhold nvidia-container-toolkit", kind="usual"),
    _row(
        "agent-with-another-gpu",
        "GPU-03",
        _compose('s/device_ids: .*/device_ids: ["0"]/') + _HEALTHY,
    ),
    # Versions
    _old(
        "docker-is-old",
        "VER-01",
        *("/usr/bin/docker", "version*Server.Version*", "20.10.5"),
        package="docker.io",
    ),
    _old(
        "runc-is-old",
        "VER-02",
        *("/usr/sbin/runc", "*--version*", "runc version 1.1.1"),
        package="runc",
    ),
    _old(
        "nginx-is-old",
        "VER-03",
        *("/usr/sbin/nginx", "-v", "nginx version: nginx/1.20.1"),
        package="nginx",
        fd=2,
    ),
    _row(
        "toolkit-is-old",
        "GPU-01 VER-04",
        "cp /var/lib/dpkg/status /var/tmp/lab-status && sed -i"
        " '/^Package: nvidia-container-toolkit$/,/^Version:/ s/^Version: .*/Version: 1.14.0-1/'"
        " /var/lib/dpkg/status",
        undo="mv /var/tmp/lab-status /var/lib/dpkg/status",
    ),
    # Sockets and packets
    _row(
        "port-listens",
        "NET-01",
        _listen("0.0.0.0:9999"),
        undo=_NO_STRANGER,
        refused="0.0.0.0:9999",
        kind="usual",
    ),
    _row(
        "port-listens-on-ipv6",
        "NET-01",
        _listen("[::]:9998"),
        undo=_NO_STRANGER,
        refused="9998",
    ),
    _row(
        "udp-port-listens",
        "NET-01",
        _listen("0.0.0.0:9997", "--datagram"),
        undo=_NO_STRANGER,
        refused="9997",
    ),
    _row(
        "agent-published-everywhere",
        "NET-02 DOCKER-06",
        _compose("s/127.0.0.1:8002:8000/0.0.0.0:8002:8000/") + _HEALTHY,
    ),
    _row(
        "firewall-deleted",
        "NET-03 NET-10 NET-11 NET-12",
        "nft delete table inet vllm_hosts",
        kind="usual",
    ),
    _row(
        "firewall-policy-accepts",
        "NET-03 NET-10",
        "nft 'chain inet vllm_hosts input { policy accept; }'",
    ),
    _row(
        "firewall-rule-added",
        "NET-03",
        "nft insert rule inet vllm_hosts input tcp dport 8001 accept",
    ),
    _row(
        "firewall-forwards",
        "NET-03 NET-11 NET-12",
        "nft insert rule inet vllm_hosts forward accept",
    ),
    _row(
        "firewall-open-for-udp",
        "NET-03 NET-10",
        "nft insert rule inet vllm_hosts input udp dport 5353 accept",
    ),
    _row(
        "firewall-file-changed",
        "NET-03 NET-04",
        "sed -i 's/policy drop/policy accept/' /etc/vllm-hosts/firewall.nft",
    ),
    _row(
        "rule-before-ours",
        "NET-05",
        "nft 'add table inet lab;"
        " add chain inet lab first { type filter hook input priority -300; };"
        " add rule inet lab first tcp dport 8001 accept'",
        undo="nft delete table inet lab",
    ),
    _row(
        "agent-port-redirected",
        "NET-05 NET-08 NET-12",
        "nft 'add table ip lab; add chain ip lab pre { type nat hook prerouting priority -150; };"
        " add rule ip lab pre tcp dport 8001 redirect to :80'",
        undo="nft delete table ip lab",
        refused="port 8001 of 10.87.0.11 opens from the controller",
        kind="usual",
    ),
    _row("firewall-not-at-boot", "NET-06", "systemctl disable vllm-hosts-firewall.service"),
    _row(
        "loopback-routed",
        "NET-07",
        "sysctl -qw net.ipv4.conf.host0.route_localnet=1",
        undo="sysctl -qw net.ipv4.conf.host0.route_localnet=0",
    ),
    _row(
        "loopback-reachable",
        "NET-03 NET-07 NET-10 NET-11 NET-12",
        "sysctl -qw net.ipv4.conf.host0.route_localnet=1; nft delete table inet vllm_hosts",
        undo="sysctl -qw net.ipv4.conf.host0.route_localnet=0",
    ),
    _row(
        "open-over-ipv6-only",
        "NET-01 NET-03 NET-09",
        "nft insert rule inet vllm_hosts input meta nfproto ipv6 tcp dport 9996 accept; "
        + _listen("[::]:9996"),
        undo=_NO_STRANGER,
        refused="9996",
    ),
    # Secrets
    _row("env-readable", "SEC-01", "chmod 644 /opt/vllm/.env", kind="usual"),
    _row("env-owner", "SEC-01", "chown 1000 /opt/vllm/.env"),
    _row("env-replaceable", "SEC-02", "chmod 777 /opt/vllm"),
    _row(
        "certificate-key-readable", "SEC-03", "chmod 644 /etc/vllm-hosts/tls/key.pem", kind="usual"
    ),
    _row("keys-of-clients-readable", "SEC-03", f"chmod 644 {MAPS}/clients.map"),
    _row("keys-folder-open", "SEC-03", f"chmod 755 {MAPS}"),
    _row(
        "key-in-arguments",
        "SEC-04",
        f'systemd-run -q --unit lab-stranger /bin/sh -c ": {KEY}; sleep 600"',
        undo=_NO_STRANGER,
        kind="blind",
    ),
    _row(
        "key-in-a-log",
        "SEC-05",
        "sed -n 's/^VLLM_API_KEY=//p' /opt/vllm/.env >/var/log/nginx/lab.log",
        undo="rm /var/log/nginx/lab.log",
    ),
    _row(
        "key-in-the-journal",
        "SEC-05",
        "sed -n 's/^VLLM_API_KEY=/key /p' /opt/vllm/.env | systemd-cat && sleep 1",
        undo="journalctl -q --rotate && sleep 1 && journalctl -q --vacuum-time=1s",
    ),
    _row(
        "key-on-the-command-line",
        "SEC-04 SEC-06",
        _compose(f's/      - "--port"/      - "--api-key"\\n      - "\'"{KEY}"\'"\\n&/') + _HEALTHY,
    ),
    _row("core-dumps-allowed", "SEC-07", _compose("/ulimits:/d") + _HEALTHY),
    # Agents
    _row("agent-stopped", "AGENT-01", "docker stop -t 1 spare", kind="blind"),
    _row(
        "agent-from-another-image",
        "AGENT-02",
        f"docker tag {IMAGE} lab/other:v0.32.0 && "
        + _compose("s/    image: .*/    image: lab\\/other:v0.32.0/")
        + _HEALTHY,
    ),
    _row(
        "agent-privileged",
        "AGENT-03 DOCKER-09",
        _compose("s/cap_drop: .*/privileged: true/") + _HEALTHY,
    ),
    _row(
        "agent-not-at-boot",
        "AGENT-04",
        _compose('s/restart: .*/restart: "no"/') + _HEALTHY,
    ),
    _row(
        "agent-without-its-key",
        "AGENT-05",
        _compose("s/VLLM_API_KEY: .*/NO_KEY: no/") + _HEALTHY,
    ),
    _row(
        "agent-sees-the-host",
        "AGENT-06 DOCKER-09",
        _compose("s/^    volumes:/&\\n      - \\/etc:\\/host:ro/") + _HEALTHY,
    ),
    # The edge
    _row("nginx-not-at-boot", "EDGE-01", "systemctl disable nginx"),
    _row("nginx-stopped", "EDGE-01", "systemctl stop nginx", kind="usual blind"),
    _row("edge-without-keys", "EDGE-02 EDGE-03", _conf("s/return 401;/set $x 1;/"), kind="usual"),
    _row(
        "edge-with-a-wrong-internal-key",
        "EDGE-04 EDGE-05",
        _conf('s/ "/ "x/', f"{MAPS}/internal.map"),
    ),
    _row(
        "metrics-opened",
        "EDGE-06 EDGE-13 EDGE-14",
        "sed -i '0,\\#    location = /v1#s||    location = /metrics"
        " { proxy_pass http://127.0.0.1:8001/metrics; }\\n    location = /v1|'"
        f" {CONF} && {RELOAD}",
    ),
    _row("http-answers", "EDGE-07", _conf("s/return 308 .*/return 200;/")),
    _row(
        "plain-http-on-tls-port",
        "EDGE-08",
        f"sed -i '0,/ 494 497 /s// 494 /; 0,/    merge_slashes off;/s||    merge_slashes off;"
        f" error_page 497 =200 /lab; location = /lab {{ return 200; }}|' {CONF} && {RELOAD}",
    ),
    _row(
        "another-name-answers",
        "EDGE-09",
        "printf 'server { listen 443 ssl; server_name stranger.invalid;"
        f" include {MAPS}/tls.conf; location / {{ return 200; }} }}'"
        f" >/etc/nginx/conf.d/lab.conf && {RELOAD}",
        undo=f"rm /etc/nginx/conf.d/lab.conf && {RELOAD}",
    ),
    _row(
        "large-headers",
        "EDGE-10",
        _conf("s/large_client_header_buffers .*/large_client_header_buffers 8 128k;/"),
    ),
    _row("large-bodies", "EDGE-11", _conf("s/client_max_body_size .*/client_max_body_size 0;/")),
    _row(
        "patience-with-slow-clients",
        "EDGE-12",
        _conf("s/client_header_timeout .*/client_header_timeout 600s;/"),
        also=("EDGE-12",),
    ),
    _row(
        "path-in-capitals",
        "EDGE-14",
        "sed -i '0,\\#    location = /v1#s||    location = /METRICS"
        " { return 200; }\\n    location = /v1|'"
        f" {CONF} && {RELOAD}",
    ),
    # Keys
    _row(
        "key-added-by-hand",
        "KEY-01",
        f'echo \'"Bearer x" "x Bearer x";\' >>{MAPS}/clients.map && {RELOAD}',
        kind="usual",
    ),
    _row(
        "key-in-another-map",
        "KEY-01",
        f'echo \'"Bearer x" "x Bearer x";\' >{MAPS}/clients-lab.map && {RELOAD}',
        undo=f"rm {MAPS}/clients-lab.map && {RELOAD}",
    ),
    _row("scope-widened", "KEY-02", f"sed -i '/1;$/d; $d' {MAPS}/scopes.map"),
    _row("expiry-stopped", "KEY-03", "systemctl disable --now vllm-hosts-keys.timer"),
    # TLS
    _row(
        "old-tls",
        "TLS-01 TLS-07",
        "sed -i 's/ssl_protocols .*/ssl_protocols TLSv1.1 TLSv1.2 TLSv1.3;/;"
        f" s/ssl_ciphers .*/ssl_ciphers DEFAULT@SECLEVEL=0;/' {MAPS}/tls.conf && {RELOAD}",
        kind="usual",
    ),
    _row(
        "no-tls-1-3",
        "TLS-02 TLS-07",
        _conf("s/ssl_protocols .*/ssl_protocols TLSv1.2;/", f"{MAPS}/tls.conf"),
    ),
    _row(
        "weak-cipher",
        "TLS-07",
        _conf(
            "s/ssl_ciphers \\(.*\\);/ssl_ciphers \\1:ECDHE-ECDSA-AES256-SHA;/", f"{MAPS}/tls.conf"
        ),
    ),
    _row(
        "certificate-of-a-stranger",
        "TLS-03 TLS-07",
        "cd /etc/vllm-hosts/tls && openssl req -x509 -key key.pem -days 300 -subj /CN=lab"
        " -addext subjectAltName=IP:10.87.0.99 >new.pem && mv new.pem certificate.pem && " + RELOAD,
        kind="blind",
    ),
    _row(
        "certificate-expired",
        "TLS-03 TLS-04 TLS-07",
        "cd /etc/vllm-hosts/tls && openssl req -x509 -key key.pem -days 1 -subj /CN=lab"
        " -not_before 20250101000000Z -not_after 20250201000000Z"
        " -addext subjectAltName=IP:10.87.0.11 >new.pem && mv new.pem certificate.pem && " + RELOAD,
        kind="blind",
    ),
    _row(
        "certificate-not-served",
        "TLS-05",
        "cd /etc/vllm-hosts/tls && openssl req -x509 -key key.pem -days 300 -subj /CN=lab"
        " -addext subjectAltName=IP:10.87.0.11 >new.pem && mv new.pem certificate.pem",
    ),
    _row(
        "no-hsts",
        "TLS-06",
        f"grep -rl Strict-Transport {CONF} {MAPS} | xargs sed -i /Strict-Transport/d && {RELOAD}",
    ),
]

#: Promises that no row breaks, and why.
UNBROKEN = {
    "SSH-01": "test_7_lockout, which switches ssh_hardening on",
    "GPU-02": "Docker restarts with every daemon.json, and then agents come back without a GPU",
    "VER-05": "an older vLLM would need a second image of 2 GB; tests/unit/test_floors.py",
}
