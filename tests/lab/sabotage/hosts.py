"""Rows that break what the host itself, Docker, versions and the firewall promise."""

from __future__ import annotations

from lab.layout import BRIDGE_V4
from tests.lab.sabotage.parts import (
    GONE,
    HEALTHY,
    MARK,
    NO_STRANGER,
    container,
    listen,
    old,
    recreated,
    row,
)

ROWS = [
    # The host itself
    row(
        "clock-wrong",
        "HOST-01",
        "printf '#!/bin/sh\\necho 1700000000.0\\n' >/usr/local/bin/date"
        " && chmod 755 /usr/local/bin/date",
        undo="rm /usr/local/bin/date",
    ),
    row(
        "setuid-shell",
        "HOST-02",
        "cp /bin/sh /usr/local/bin/lab-shell && chmod 4755 /usr/local/bin/lab-shell",
        undo="rm /usr/local/bin/lab-shell",
    ),
    row(
        "host-of-another-store",
        "OWN-01",
        f"cp -p {MARK} /var/tmp/lab-store"
        f" && sed -i 's/^store .*/store 0123456789abcdef0123456789abcdef/' {MARK}",
        undo=f"mv /var/tmp/lab-store {MARK}",
        refused="whose store is not here",
    ),
    row("host-that-says-nothing", "OWN-01", f"rm {MARK}"),
    row("host-s-mark-for-all-to-write", "OWN-01", f"chmod 666 {MARK}"),
    row("docker-member", "HOST-03", "gpasswd -a alice docker", undo="gpasswd -d alice docker"),
    # Docker
    row("docker-not-at-boot", "DOCKER-01", "systemctl disable docker.service"),
    row(
        "compose-is-old",
        "DOCKER-02",
        "mkdir -p /root/.docker/cli-plugins && cd /root/.docker/cli-plugins &&"
        " printf '#!/bin/sh\\ncase $1 in docker-cli-plugin-metadata) echo"
        ' \'"\'"\'{"SchemaVersion":"0.1.0","Vendor":"x","Version":"1.29.2"}\'"\'"\'; exit;; esac\\n'
        "echo 1.29.2\\n' >docker-compose && chmod 755 docker-compose",
        undo="rm -r /root/.docker",
        refused="`docker compose` is",
    ),
    row(
        "log-rotation-lost",
        "DOCKER-03",
        'sed -i \'s/"max-file": "3"/"max-file": "9"/\' /etc/docker/daemon.json',
    ),
    row(
        "binding-to-everything",
        "DOCKER-04",
        'sed -i \'s/"ip": "127.0.0.1"/"ip": "0.0.0.0"/\' /etc/docker/daemon.json',
    ),
    row(
        "live-restore-off",
        "DOCKER-05",
        'sed -i \'s/"live-restore": true/"live-restore": false/\' /etc/docker/daemon.json &&'
        " systemctl reload docker && sleep 1",
    ),
    row(
        "container-published",
        "DOCKER-06 NET-01",
        container("-p 0.0.0.0:9090:80"),
        undo=GONE,
        refused="0.0.0.0:9090",
    ),
    row("container-on-host-network", "DOCKER-07", container("--network host"), undo=GONE),
    row(
        "docker-on-tcp",
        "DOCKER-08 NET-01",
        "mkdir -p /etc/systemd/system/docker.service.d && printf '[Service]\\nExecStart=\\n"
        "ExecStart=/usr/sbin/dockerd -H fd:// -H tcp://0.0.0.0:2375"
        " --containerd=/run/containerd/containerd.sock\\n'"
        " >/etc/systemd/system/docker.service.d/lab.conf"
        " && systemctl daemon-reload && systemctl restart docker && sleep 2" + HEALTHY,
        undo="rm /etc/systemd/system/docker.service.d/lab.conf && systemctl daemon-reload"
        " && systemctl restart docker && sleep 2",
        refused="2375",
    ),
    row(
        "archive-with-another-key",
        "DOCKER-10",
        "cp /etc/apt/keyrings/nvidia-container-toolkit.asc /etc/apt/keyrings/docker.asc",
    ),
    row(
        "archive-with-two-keys",
        "DOCKER-10",
        "cat /etc/apt/keyrings/nvidia-container-toolkit.asc >>/etc/apt/keyrings/docker.asc",
    ),
    # GPUs
    row("toolkit-unheld", "GPU-01", "apt-mark unhold nvidia-container-toolkit"),
    row(
        "agent-with-another-gpu",
        "GPU-03 AGENT-03",
        recreated('s/device_ids: .*/device_ids: ["0"]/') + HEALTHY,
    ),
    # Versions
    old(
        "docker-is-old",
        "VER-01",
        *("/usr/bin/docker", "version*Server.Version*", "20.10.5"),
        package="docker.io",
    ),
    old(
        "runc-is-old",
        "VER-02",
        *("/usr/sbin/runc", "*--version*", "runc version 1.1.1"),
        package="runc",
    ),
    old(
        "nginx-is-old",
        "VER-03",
        *("/usr/sbin/nginx", "-v", "nginx version: nginx/1.20.1"),
        package="nginx",
        fd=2,
    ),
    row(
        "toolkit-is-old",
        "GPU-01 VER-04",
        "cp /var/lib/dpkg/status /var/tmp/lab-status && sed -i"
        " '/^Package: nvidia-container-toolkit$/,/^Version:/ s/^Version: .*/Version: 1.14.0-1/'"
        " /var/lib/dpkg/status",
        undo="mv /var/tmp/lab-status /var/lib/dpkg/status",
    ),
    # Sockets and packets
    row(
        "port-listens",
        "NET-01",
        listen("0.0.0.0:9999"),
        undo=NO_STRANGER,
        refused="0.0.0.0:9999",
    ),
    row(
        "user-called-sshd",
        "NET-01",
        # Any user can give a program that name, and sessions of the real one listen for users.
        "cp /usr/bin/perl /var/tmp/sshd && systemd-run -q --unit lab-stranger --uid 65534"
        " /var/tmp/sshd -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(Listen => 5,"
        " LocalAddr => q(0.0.0.0:4444)); while (1) { close($s->accept) }' && sleep 1",
        undo=f"{NO_STRANGER}; rm /var/tmp/sshd",
        refused="0.0.0.0:4444",
    ),
    row(
        "port-listens-on-ipv6",
        "NET-01",
        listen("[::]:9998"),
        undo=NO_STRANGER,
        refused="9998",
    ),
    row(
        "udp-port-listens",
        "NET-01",
        listen("0.0.0.0:9997", "--datagram"),
        undo=NO_STRANGER,
        refused="9997",
    ),
    row(
        "agent-published-everywhere",
        "NET-02 DOCKER-06",
        recreated("s/127.0.0.1:8002:8000/0.0.0.0:8002:8000/") + HEALTHY,
    ),
    row(
        "firewall-deleted",
        "NET-03 NET-10 NET-11 NET-12 NET-13 AGENT-09",
        "nft delete table inet vllm_hosts",
    ),
    row(
        "firewall-policy-accepts",
        "NET-03 NET-10",
        "nft 'chain inet vllm_hosts input { policy accept; }'",
    ),
    row(
        "firewall-rule-added",
        "NET-03",
        "nft insert rule inet vllm_hosts input tcp dport 8001 accept",
    ),
    row(
        "firewall-forwards",
        "NET-03 NET-11 AGENT-09",
        "nft insert rule inet vllm_hosts forward accept",
    ),
    row(
        "firewall-open-for-udp",
        "NET-03 NET-10",
        "nft insert rule inet vllm_hosts input udp dport 5353 accept",
    ),
    row(
        "firewall-file-changed",
        "NET-03 NET-04",
        "sed -i 's/policy drop/policy accept/' /etc/vllm-hosts/firewall.nft",
    ),
    row(
        "firewall-file-opens-a-port",
        "NET-04",
        "sed -i '/ct state invalid drop/a tcp dport 8001 accept' /etc/vllm-hosts/firewall.nft"
        " && nft -f /etc/vllm-hosts/firewall.nft",
    ),
    # Strangers of no network that settings name meet a closed port: only the address that the rule
    # names gets through.
    row(
        "firewall-file-lets-one-network-in",
        "NET-04",
        "sed -i '/ct state invalid drop/a ip saddr 203.0.113.64/28 tcp dport 8001 accept'"
        " /etc/vllm-hosts/firewall.nft && nft -f /etc/vllm-hosts/firewall.nft",
    ),
    row(
        "firewall-file-lets-one-address-into-containers",
        "NET-04",
        "sed -i '/hook forward/a ip6 saddr 2001:db8:77::7 accept' /etc/vllm-hosts/firewall.nft"
        " && nft -f /etc/vllm-hosts/firewall.nft",
    ),
    row(
        "rule-before-ours",
        "NET-05",
        "nft 'add table inet lab;"
        " add chain inet lab first { type filter hook input priority -300; };"
        " add rule inet lab first tcp dport 8001 accept'",
        undo="nft delete table inet lab",
    ),
    row(
        "agent-port-redirected",
        "NET-05 NET-08",
        "nft 'add table ip lab; add chain ip lab pre { type nat hook prerouting priority -150; };"
        " add rule ip lab pre tcp dport 8001 redirect to :80'",
        undo="nft delete table ip lab",
        refused=f"port 8001 of {BRIDGE_V4.network[11]} can be reached from the controller",
    ),
    row("firewall-not-at-boot", "NET-06", "systemctl disable vllm-hosts-firewall.service"),
    row(
        "loopback-routed",
        "NET-07",
        "sysctl -qw net.ipv4.conf.host0.route_localnet=1",
        undo="sysctl -qw net.ipv4.conf.host0.route_localnet=0",
    ),
    row(
        "loopback-reachable",
        "NET-03 NET-07 NET-10 NET-11 NET-12 NET-13 AGENT-09",
        "sysctl -qw net.ipv4.conf.host0.route_localnet=1; nft delete table inet vllm_hosts",
        undo="sysctl -qw net.ipv4.conf.host0.route_localnet=0",
    ),
    row(
        "open-over-ipv6-only",
        "NET-01 NET-03 NET-09",
        "nft insert rule inet vllm_hosts input meta nfproto ipv6 tcp dport 9996 accept; "
        # Goes on listening when the look from outside connects.
        + listen("[::]:9996", "--accept"),
        undo=NO_STRANGER,
        refused="9996",
    ),
]
