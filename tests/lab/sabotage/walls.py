"""Rows that break the walls around agents, and those between containers and their host."""

from __future__ import annotations

from tests.lab.sabotage.parts import (
    CACHE,
    FAKE_MACVLAN,
    GONE,
    HEALTHY,
    KEY,
    NETWORK,
    container,
    edited,
    powerful,
    recreated,
    row,
)

ROWS = [
    # Containers of others
    powerful("privileged", "--privileged"),
    powerful("with-docker-socket", "-v /var/run/docker.sock:/var/run/docker.sock"),
    powerful("with-all-capabilities", "--cap-add ALL"),
    powerful("without-seccomp", "--cap-add SYS_ADMIN --security-opt seccomp=unconfined"),
    powerful("with-unmasked-proc", "--security-opt systempaths=unconfined"),
    powerful("with-a-device", "--device /dev/full"),
    powerful("with-a-device-rule", "--device-cgroup-rule 'b 8:* rmw'"),
    powerful("with-docker-s-files", "-v /var/lib/docker:/host:ro"),
    powerful("with-containerd-s-files", "-v /run/containerd:/host"),
    powerful("with-env", "-v /opt/vllm:/host:ro"),
    powerful("with-the-edge-s-keys", "-v /etc/nginx/vllm-hosts:/host:ro"),
    powerful("with-root-s-ssh-keys", "-v /root/.ssh:/host"),
    powerful("with-cron", "-v /etc/cron.d:/host", undo="rmdir --ignore-fail /etc/cron.d"),
    powerful("with-proc", "-v /proc:/host:ro"),
    powerful(
        "with-a-link-to-etc",
        "-v /srv/lab:/host",
        before="ln -sfn /etc /srv/lab",
        undo="rm /srv/lab",
    ),
    powerful(
        "with-a-volume-of-the-host",
        "-v lab:/host",
        before="docker volume create -o type=none -o o=bind -o device=/ lab",
        undo="docker volume rm lab",
    ),
    powerful("with-the-host-s-ipc", "--ipc host"),
    powerful("with-the-host-s-uts", "--uts host"),
    powerful("with-the-host-s-cgroups", "--cgroupns host"),
    powerful("with-the-host-s-processes", "--pid host"),
    # Who reaches agents, and whom they reach
    row(
        "users-reach-agents",
        "NET-03 NET-13",
        "nft insert rule inet vllm_hosts output accept",
    ),
    row(
        "agents-reach-the-host",
        "NET-03 AGENT-09",
        "nft 'insert rule inet vllm_hosts input iifname \"vllm-*\" accept'",
    ),
    row(
        "container-on-macvlan",
        "NET-14",
        # The lab's kernel has no macvlan: Docker says of a bridge that it is one.
        FAKE_MACVLAN + "docker network create lab && " + container("--network lab"),
        undo=f"{GONE}; docker network rm lab; rm /usr/local/sbin/docker",
    ),
    # Agents
    row(
        "agent-with-a-capability",
        "AGENT-03",
        recreated("s/cap_drop: .*/&\\n    cap_add: [NET_RAW]/") + HEALTHY,
    ),
    row(
        "agent-with-a-writable-root",
        "AGENT-03 AGENT-08",
        recreated("/^    read_only: true/d") + HEALTHY,
    ),
    row(
        "agent-with-the-key-of-another",
        "AGENT-10 EDGE-04 EDGE-05",
        recreated("s/VLLM_API_KEY: .*/VLLM_API_KEY: ${VLLM_API_KEY_TINY:?}/") + HEALTHY,
    ),
    row(
        "stranger-with-the-key-of-an-agent",
        "AGENT-10",
        # From the environment, and in no arguments.
        f"export VLLM_API_KEY={KEY} && " + container("-e VLLM_API_KEY"),
        undo=GONE,
    ),
    row(
        "edge-asks-a-port-of-the-host",
        "AGENT-07",
        edited("/^upstream vllm_hosts_spare/,/^}/ s/server [^ ]*/server 127.0.0.1:8002/"),
    ),
    row(
        "stranger-on-an-agent-s-network",
        "AGENT-07",
        container(f"--network {NETWORK}"),
        undo=GONE,
    ),
    row(
        "stranger-in-an-agent-s-namespace",
        "AGENT-07",
        container("--network container:spare"),
        undo=GONE,
    ),
    row(
        "agent-writes-models",
        "AGENT-06 DOCKER-09 MODEL-01",
        recreated('/target: "\\/models"/ s/read_only: true/read_only: false/') + HEALTHY,
    ),
    row("agents-folder-writable", "MODEL-01", f"chmod 777 {CACHE}/agents"),
    row(
        "models-belong-to-an-agent",
        "MODEL-01",
        f"chown $(stat -c %u {CACHE}/agents/spare) {CACHE}/huggingface",
    ),
    row(
        "models-are-a-link",
        "MODEL-01",
        f"cd {CACHE} && mv huggingface lab && ln -s lab huggingface",
        undo=f"cd {CACHE} && rm huggingface && mv lab huggingface",
    ),
]
