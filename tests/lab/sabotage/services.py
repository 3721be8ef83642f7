"""Rows that break what secrets, agents, the edge, keys and TLS promise."""

from __future__ import annotations

from lab.layout import BRIDGE_V4, gpu_hosts
from tests.lab.sabotage.parts import (
    CONF,
    GONE,
    HEALTHY,
    IMAGE,
    KEY,
    KEYS,
    LIMITS,
    LUA,
    MAPS,
    RELOAD,
    edited,
    recreated,
    row,
)

GPU1, NOBODY = gpu_hosts(1)[0].ipv4, BRIDGE_V4.network[99]

ROWS = [
    # Secrets
    row("env-readable", "SEC-01", "chmod 644 /opt/vllm/.env"),
    row("env-owner", "SEC-01", "chown 1000 /opt/vllm/.env"),
    row("env-replaceable", "SEC-02", "chmod 777 /opt/vllm"),
    row("certificate-key-readable", "SEC-03", "chmod 644 /etc/vllm-hosts/tls/key.pem"),
    row("keys-of-clients-readable", "SEC-03", f"chmod 644 {MAPS}/clients.map"),
    row("keys-folder-open", "SEC-03", f"chmod 755 {MAPS}"),
    row(
        "key-in-arguments",
        "SEC-04",
        # Not as a unit: systemd notes in the journal what it starts.
        f'setsid /bin/sh -c ": {KEY}; sleep 601; :" >/dev/null 2>&1 </dev/null &',
        undo="pkill -f '[s]leep 601'",
        blind=True,
    ),
    row(
        "key-in-a-log",
        "SEC-05",
        f"{KEYS} >/var/log/nginx/lab.log",
        undo="rm /var/log/nginx/lab.log",
    ),
    row(
        "key-in-a-rotated-log",
        "SEC-05",
        f"{KEYS} | gzip >/var/log/nginx/lab.log.2.gz",
        undo="rm /var/log/nginx/lab.log.2.gz",
    ),
    row(
        "key-in-a-container-s-log",
        "SEC-05",
        # The key is not in the arguments of the container: it reads it from what it is given.
        f"{KEYS} | docker run -i --name lab-stranger --log-driver local --entrypoint cat {IMAGE}"
        " >/dev/null",
        undo=GONE,
    ),
    row(
        "key-in-the-journal",
        "SEC-05",
        f"{KEYS} | systemd-cat && sleep 1",
        undo="journalctl -q --rotate && sleep 1 && journalctl -q --vacuum-time=1s",
    ),
    row(
        "key-on-the-command-line",
        "SEC-04 SEC-06",
        recreated(f's/      - "--port"/      - "--api-key"\\n      - "\'"{KEY}"\'"\\n&/') + HEALTHY,
    ),
    row("core-dumps-allowed", "SEC-07", recreated("/ulimits:/d") + HEALTHY),
    # Agents
    row("agent-stopped", "AGENT-01 EDGE-04 EDGE-05", "docker stop -t 1 spare", blind=True),
    row(
        "agent-from-another-image",
        "AGENT-02",
        f"docker tag {IMAGE} lab/other:v0.32.0 && "
        + recreated("s/    image: .*/    image: lab\\/other:v0.32.0/")
        + HEALTHY,
    ),
    row(
        "agent-privileged",
        "AGENT-03 DOCKER-09",
        recreated("s/cap_drop: .*/privileged: true/") + HEALTHY,
    ),
    row(
        "agent-not-at-boot",
        "AGENT-04",
        recreated('s/restart: .*/restart: "no"/') + HEALTHY,
    ),
    row(
        "agent-without-its-key",
        "AGENT-05 AGENT-10",
        recreated("s/VLLM_API_KEY: .*/NO_KEY: no/") + HEALTHY,
    ),
    row(
        "agent-sees-the-host",
        "AGENT-06 DOCKER-09",
        recreated("s/^    volumes:/&\\n      - \\/etc:\\/host:ro/") + HEALTHY,
    ),
    row(
        "agent-fetches-from-another-domain",
        "AGENT-11",
        recreated("s/none.invalid/images.example/") + HEALTHY,
    ),
    row(
        "agent-fetches-from-every-domain",
        "AGENT-11",
        recreated('/"--allowed-media-domains"/d; /"none.invalid"/d') + HEALTHY,
    ),
    row(
        "agent-follows-redirects",
        "AGENT-11",
        recreated("/VLLM_MEDIA_URL_ALLOW_REDIRECTS/d") + HEALTHY,
    ),
    # The edge
    row("nginx-not-at-boot", "EDGE-01", "systemctl disable nginx"),
    row("nginx-stopped", "EDGE-01", "systemctl stop nginx", blind=True),
    row(
        "edge-without-keys",
        "EDGE-02 EDGE-03 EDGE-06 EDGE-16",
        edited("s|rewrite .* /./401 last;|set $x 1;|", f"{MAPS}/checks.conf"),
    ),
    row(
        "unknown-paths-told-apart",
        "EDGE-02 EDGE-06",
        # As it was once: what is not there is said before anybody is asked for a key.
        edited("/^    location \\/ {/,/^    }/ s|include .*/checks.conf;||"),
    ),
    row(
        "edge-with-a-wrong-internal-key",
        "EDGE-04 EDGE-05",
        edited('s/ "/ "x/', f"{MAPS}/internal.map"),
    ),
    row(
        "metrics-opened",
        "EDGE-06 EDGE-14",
        "sed -i '0,\\#    location = /v1#s||    location = /metrics"
        " { proxy_pass http://127.0.0.1:8001/metrics; }\\n    location = /v1|'"
        f" {CONF} && {RELOAD}",
    ),
    row("http-answers", "EDGE-07", edited("s/return 308 .*/return 200;/")),
    row(
        "plain-http-on-tls-port",
        "EDGE-08",
        edited(
            "s| 496 497 =400 \\(.*\\)| 496 =400 \\1"
            " error_page 497 =200 /lab; location = /lab { return 200; }|"
        ),
    ),
    row(
        "unknown-coding-answered",
        "EDGE-13",
        edited(
            "s| 501 505 414 \\(.* =400 .*\\)| 505 414 \\1"
            " error_page 501 =200 /lab; location = /lab { return 200; }|"
        ),
    ),
    row(
        "another-name-answers",
        "EDGE-09",
        "printf 'server { listen 443 ssl; server_name stranger.invalid;"
        f" include {MAPS}/tls.conf; location / {{ return 200; }} }}'"
        f" >/etc/nginx/conf.d/lab.conf && {RELOAD}",
        undo=f"rm /etc/nginx/conf.d/lab.conf && {RELOAD}",
    ),
    row(
        "large-headers",
        "EDGE-10",
        edited(
            "s/large_client_header_buffers .*/large_client_header_buffers 8 128k;/",
            f"{MAPS}/common.conf",
        ),
    ),
    row("large-bodies", "EDGE-11", edited("s/client_max_body_size .*/client_max_body_size 0;/")),
    row(
        "patience-with-slow-clients",
        "EDGE-12",
        edited("s/client_header_timeout .*/client_header_timeout 600s;/", f"{MAPS}/common.conf"),
        also=("EDGE-12",),
    ),
    row(
        "path-in-capitals",
        "EDGE-14",
        "sed -i '0,\\#    location = /v1#s||    location = /METRICS"
        " { return 200; }\\n    location = /v1|'"
        f" {CONF} && {RELOAD}",
    ),
    row("disguised-paths-found", "EDGE-14", edited("/vllm_hosts_plain/d", f"{MAPS}/checks.conf")),
    row(
        "refused-without-limit",
        "EDGE-15 LOG-02",
        edited("/limit_req zone=vllm_hosts_refused/d", f"{MAPS}/refused.conf"),
    ),
    row(
        "health-tells-more",
        "EDGE-16",
        edited('s/{"status": "up"}/{"status": "up", "host": "$hostname"}/'),
    ),
    row(
        "health-of-vllm-itself",
        "EDGE-16",
        edited(
            "s|auth_request /./agent;|proxy_pass http://$vllm_hosts_target/version;|;"
            " s|try_files /./nothing @up;||"
        ),
    ),
    row(
        "few-connections",
        "EDGE-17",
        edited("s/worker_connections .*/worker_connections 768;/", "/etc/nginx/nginx.conf"),
    ),
    row(
        "few-open-files",
        "EDGE-17",
        f"printf 'worker_rlimit_nofile 1024;' >{LIMITS} && {RELOAD}",
    ),
    row(
        "prefix-caches-shared",
        "EDGE-18",
        edited('/salted = {/,/},/ s|"/v[12]/|"/none/|', f"{LUA}/counting.lua"),
    ),
    row(
        "log-rotation-stopped",
        "LOG-01",
        "systemctl disable --now vllm-hosts-edge-logs.timer",
    ),
    row(
        "watchdog-stopped",
        "AGENT-12",
        "systemctl disable --now vllm-hosts-watchdog.timer",
    ),
    row(
        "watchdog-without-an-agent",
        "AGENT-12",
        "sed -i '/^address.spare/d' /usr/local/lib/vllm-hosts/watch-agents",
    ),
    row(
        "watchdog-that-does-nothing",
        "AGENT-12",
        "mkdir -p /etc/systemd/system/vllm-hosts-watchdog.service.d && printf"
        " '[Service]\\nExecStart=\\nExecStart=/bin/true\\n'"
        " >/etc/systemd/system/vllm-hosts-watchdog.service.d/lab.conf && systemctl daemon-reload",
        undo="rm -r /etc/systemd/system/vllm-hosts-watchdog.service.d; systemctl daemon-reload",
    ),
    row("edge-log-readable", "LOG-01", "chmod 644 /var/log/vllm-hosts/access.log"),
    row(
        "edge-log-without-bound",
        "LOG-01",
        "sed -i 's/size .*/size 900G/' /etc/vllm-hosts/edge-logs.conf",
    ),
    row(
        "queries-in-the-error-log",
        "LOG-02",
        edited("s/ emerg;/ info;/", f"{MAPS}/common.conf"),
    ),
    row(
        "queries-in-the-access-log",
        "LOG-02",
        edited('s/"request_id":/"line":"$request",&/'),
    ),
    # Keys
    row(
        "key-added-by-hand",
        "KEY-01",
        f'echo \'"Bearer x" "x Bearer x";\' >>{MAPS}/clients.map && {RELOAD}',
    ),
    row(
        "key-in-another-map",
        "KEY-01",
        f'echo \'"Bearer x" "x Bearer x";\' >{MAPS}/clients-lab.map && {RELOAD}',
        undo=f"rm {MAPS}/clients-lab.map && {RELOAD}",
    ),
    row(
        "key-in-the-configuration",
        "KEY-01",
        'sed -i \'/^map [$]vllm_hosts_presented/a "Basic x" "x Basic x";\' '
        + f"{CONF} && {RELOAD}",
    ),
    row(
        "key-from-another-header",
        "KEY-01",
        'sed -i \'/^map .*[$]vllm_hosts_presented {/a "~lab" "Bearer x";\' '
        + f"{CONF} && {RELOAD}",
    ),
    row(
        "client-s-key-sent-on",
        "KEY-04",
        edited("/X-Api-Key/d", f"{MAPS}/upstream.conf"),
    ),
    row(
        "location-with-a-header-of-its-own",
        "KEY-04",
        # In nginx one of its own takes away those that it would inherit.
        edited("\\#location = /tiny/v1/messages {#a proxy_set_header X-Lab 1;"),
    ),
    row(
        "scope-changed",
        "KEY-02",
        f"echo '\"spare nobody\" 1;' >>{MAPS}/scopes.map && {RELOAD}",
    ),
    row("expiry-stopped", "KEY-03", "systemctl disable --now vllm-hosts-keys.timer"),
    # TLS
    row(
        "old-tls",
        "TLS-01 TLS-07",
        "sed -i 's/ssl_protocols .*/ssl_protocols TLSv1.1 TLSv1.2 TLSv1.3;/;"
        f" s/ssl_ciphers .*/ssl_ciphers DEFAULT@SECLEVEL=0;/' {MAPS}/tls.conf && {RELOAD}",
    ),
    row(
        "no-tls-1-3",
        "TLS-02",
        edited("s/ssl_protocols .*/ssl_protocols TLSv1.2;/", f"{MAPS}/tls.conf"),
    ),
    row(
        "weak-cipher",
        "TLS-07",
        edited(
            "s/ssl_ciphers \\(.*\\);/ssl_ciphers \\1:ECDHE-ECDSA-AES256-SHA;/", f"{MAPS}/tls.conf"
        ),
    ),
    row(
        "certificate-of-a-stranger",
        "TLS-03 TLS-07",
        "cd /etc/vllm-hosts/tls && openssl req -x509 -key key.pem -days 300 -subj /CN=lab"
        f" -addext subjectAltName=IP:{NOBODY} >new.pem && mv new.pem certificate.pem && " + RELOAD,
        blind=True,
    ),
    row(
        "certificate-expired",
        "TLS-03 TLS-04 TLS-07",
        "cd /etc/vllm-hosts/tls && openssl req -x509 -key key.pem -days 1 -subj /CN=lab"
        " -not_before 20250101000000Z -not_after 20250201000000Z"
        f" -addext subjectAltName=IP:{GPU1} >new.pem && mv new.pem certificate.pem && " + RELOAD,
        blind=True,
    ),
    row(
        "certificate-not-served",
        "TLS-05",
        "cd /etc/vllm-hosts/tls && openssl req -x509 -key key.pem -days 300 -subj /CN=lab"
        f" -addext subjectAltName=IP:{GPU1} >new.pem && mv new.pem certificate.pem",
    ),
    row(
        "no-hsts",
        "TLS-06",
        f"grep -rl Strict-Transport {CONF} {MAPS} | xargs sed -i /Strict-Transport/d && {RELOAD}",
    ),
]
