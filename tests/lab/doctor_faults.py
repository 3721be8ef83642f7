"""Ways to break a host, and what the doctor must then say first."""

from __future__ import annotations

import json

from lab.layout import BRIDGE_V4, HUB_MODEL, HUB_PORT
from tests.lab.doctor_parts import (
    HEALTH,
    SPARE,
    STRANGE,
    TLS,
    Fault,
    certificate,
    entrypoint,
    fake,
    from_the_hub,
    logged,
    processes,
    real,
    until,
    watched,
)
from tests.lab.sabotage.parts import CONF, IMAGE, MAPS, RELOAD, listen, recreated
from tests.unit import doctor_words as words
from vllm_hosts.host.paths import HISTORY

#: As a command of a deploy is, below a login or without one.
_MARKED = "env VLLM_HOSTS_DEPLOY=2026-11-26T09:12:03Z sleep 600"
_ALONE = "</dev/null >/dev/null 2>&1 & echo $! >/run/lab-deploy; sleep 1"

#: As the shell that holds a host writes it, for a run that did not come to its end.
_REMOVAL = json.dumps(
    {
        "who": "ada@laptop",
        "what": "remove.py of prod.py",
        "since": "2026-11-26T09:12:03Z",
        "commit": "",
        "version": "0.1.0",
        "ended": "cut off",
        "changed": ["Removal | The edge is closed"],
    }
)

FAULTS = [
    # The machine and Docker
    Fault(
        "deploy-running",
        f"cp /bin/sh /root/sshd-lab; setsid /root/sshd-lab -c '{_MARKED}; true' {_ALONE}",
        undo="kill -- -$(cat /run/lab-deploy); rm /run/lab-deploy /root/sshd-lab",
        says="since 2026-11-26 09:12:03 UTC",
    ),
    Fault(
        "deploy-cut-off",
        f"setsid {_MARKED} {_ALONE}",
        undo="kill $(cat /run/lab-deploy); rm /run/lab-deploy",
        says="was cut off",
    ),
    Fault(
        "removal-cut-off",
        f"cp -p {HISTORY} /root/lab-history; echo '2026-11-26T09:12:09Z 192.0.2.7 {_REMOVAL}'"
        f" >>{HISTORY}",
        undo=f"mv /root/lab-history {HISTORY}",
        says="ada@laptop",
    ),
    Fault(
        "not-deployed",
        "mv /opt/vllm/compose.yaml /root/",
        undo="rm /root/compose.yaml",
    ),
    Fault(
        "docker-missing", "mv /usr/bin/docker /root/docker", undo="mv /root/docker /usr/bin/docker"
    ),
    Fault(
        "snap-docker",
        "mkdir -p /snap/bin && ln -s /usr/bin/docker /snap/bin/docker",
        undo="rm -r /snap",
    ),
    Fault(
        "docker-down",
        "systemctl stop docker.socket docker.service",
        undo="systemctl start docker.socket docker.service",
        says="Cannot connect to the Docker daemon",
        usual=True,
    ),
    Fault(
        "disk-full",
        "mount -t tmpfs -o size=64k tmpfs /var/lib/vllm; cat /dev/zero >/var/lib/vllm/full; true",
        undo="umount /var/lib/vllm",
        says="/var/lib/vllm is full",
        usual=True,
    ),
    Fault(
        "clock-off",
        "printf '#!/bin/sh\\necho 1700000000.0\\n' >/usr/local/bin/date"
        " && chmod 755 /usr/local/bin/date",
        undo="rm /usr/local/bin/date",
        says="behind",
    ),
    Fault(
        "port-taken",
        "docker stop -t 1 spare; " + listen("127.0.0.1:8002") + "; ! docker start spare",
        undo="systemctl stop lab-stranger",
        says="address already in use",
    ),
    Fault(
        "port-taken",
        # Goes on listening when the look from outside connects.
        "systemctl stop nginx; " + listen("0.0.0.0:443", "--accept"),
        undo="systemctl stop lab-stranger",
        says="edge.https_port",
    ),
    Fault(
        "model-folder-missing",
        "mv /srv/models/tiny-qwen2 /srv/models/away",
        undo="mv /srv/models/away /srv/models/tiny-qwen2",
    ),
    Fault(
        "image-missing",
        f"image={IMAGE}; docker rm -f spare && docker tag $image lab/kept:1 && docker rmi $image"
        " && echo $image >/root/lab-image",
        undo="docker tag lab/kept:1 $(cat /root/lab-image) && docker rmi lab/kept:1",
    ),
    # GPUs
    Fault(
        "driver-not-loaded",
        "mv /etc/lab-gpu.csv /root/",
        undo="mv /root/lab-gpu.csv /etc/",
        says="couldn't communicate with the NVIDIA driver",
        usual=True,
    ),
    Fault(
        "nouveau-holds-card",
        "for card in /etc/lab-pci/*; do ln -s ../../../bus/pci/drivers/nouveau $card/driver; done",
        undo="rm /etc/lab-pci/*/driver",
    ),
    Fault(
        "driver-missing",
        "mv /usr/bin/nvidia-smi /root/",
        undo="mv /root/nvidia-smi /usr/bin/",
    ),
    Fault(
        "driver-mismatch",
        fake("nvidia-smi", "*", words.MISMATCH[0], 18),
        undo=real("nvidia-smi"),
    ),
    Fault("gpu-lost", fake("nvidia-smi", "*", words.LOST[0], 15), undo=real("nvidia-smi")),
    Fault(
        "secure-boot-key",
        fake("journalctl", "*-k*", words.KEY_REJECTED)
        + " && "
        + fake("nvidia-smi", "*", words.NO_DRIVER[0], 9),
        undo=f"{real('journalctl')}; {real('nvidia-smi')}",
    ),
    Fault(
        "gpu-missing",
        "cp -p /etc/lab-gpu.csv /root/ && sed -i 2d /etc/lab-gpu.csv",
        undo="mv /root/lab-gpu.csv /etc/",
        says="spare asks for GPU 1",
    ),
    Fault(
        "toolkit-missing",
        "mv /usr/bin/nvidia-container-runtime-hook /root/ && systemctl restart docker"
        " && ! docker restart -t 1 spare",
        undo="mv /root/nvidia-container-runtime-hook /usr/bin/ && systemctl restart docker",
        says="could not select device driver",
    ),
    Fault(
        "container-without-gpu",
        # Its root is read-only: another program is mounted over that one.
        "docker exec -u 0 spare sh -c 'printf \"#!/bin/sh\\necho Failed to initialize NVML:"
        " Unknown Error\\nexit 255\\n\" >/tmp/lost && chmod 755 /tmp/lost' && nsenter"
        " -t $(docker inspect -f '{{.State.Pid}}' spare) -m"
        " mount --bind /tmp/lost /usr/bin/nvidia-smi",
        undo="docker restart -t 1 spare",
        says="Failed to initialize NVML: Unknown Error",
    ),
    Fault(
        "gpu-ecc",
        fake("nvidia-smi", HEALTH, "0, 61, 4, Not Active, Not Active, Not Active"),
        undo=real("nvidia-smi"),
    ),
    Fault(
        "gpu-throttled",
        fake("nvidia-smi", HEALTH, "0, 91, 0, Active, Not Active, Not Active"),
        undo=real("nvidia-smi"),
    ),
    Fault(
        "gpu-xid",
        fake("journalctl", "*-k*", words.XID),
        undo=real("journalctl"),
        says="fallen off the bus",
    ),
    # Memory and models, in vLLM's own words
    Fault(
        "kv-cache-too-small",
        recreated(
            's/- "512"/- "32768"/; /VLLM_CPU_KVCACHE_SPACE/d;'
            ' s/      - "--port"/      - "--kv-cache-memory-bytes"\\n      - "4194304"\\n&/'
        )
        + f" && {logged('KV cache is needed')}",
        says="Set max_model_len = ",
    ),
    Fault(
        "host-memory",
        recreated('s/- "0.92"/- "1"/; /VLLM_CPU_KVCACHE_SPACE/d')
        + f" && {logged('is less than desired CPU memory')}",
    ),
    Fault(
        "context-too-long",
        recreated('s/- "512"/- "99999"/') + f" && {logged('greater than the derived')}",
        says="Set max_model_len = 32768",
    ),
    Fault(
        "argument-refused",
        recreated('s/      - "--port"/      - "--no-such-argument"\\n&/')
        + f" && {logged('no-such-argument')}",
        says="--no-such-argument",
    ),
    Fault(
        "model-unsupported",
        f"mkdir {STRANGE} && cp /srv/models/tiny-qwen2/* {STRANGE} &&"
        f" sed -i s/Qwen2For/Qwen9For/ {STRANGE}/config.json && "
        + recreated(f's#- "{HUB_MODEL}"#- "/cache/strange"#')
        + f" && {logged('are not supported')}",
        undo=f"rm -r {STRANGE}",
        says="Qwen9ForCausalLM",
    ),
    Fault(
        "shared-memory-too-small",
        # An engine without a worker apart shares no memory.
        recreated("s/shm_size: .*/shm_size: 64m/; /VLLM_ENABLE_V1_MULTIPROCESSING/d")
        + f" && {logged('Insufficient space')}",
        says="160 MiB required",
    ),
    Fault("model-not-found", from_the_hub("lab/none") + f" && {logged('valid model identifier')}"),
    Fault(
        "revision-not-found",
        from_the_hub(HUB_MODEL, revision="v9") + f" && {logged('valid git identifier')}",
    ),
    Fault("model-gated", from_the_hub("lab/gated") + f" && {logged('gated repo')}"),
    Fault(
        "token-refused",
        from_the_hub("lab/gated", token="hf_" + "x" * 34) + f" && {logged('Invalid credentials')}",
    ),
    Fault(
        "hub-unreachable",
        from_the_hub("lab/none", port=HUB_PORT + 1) + f" && {logged('couldn.t connect to')}",
    ),
    # Keys and the edge
    Fault(
        "key-missing",
        "sed -i 's/^\\(VLLM_API_KEY_[A-Z]*\\)=.*/\\1=/' /opt/vllm/.env",
        usual=True,
    ),
    Fault("key-not-loaded", recreated('s/VLLM_API_KEY: .*/VLLM_API_KEY: ""/')),
    Fault(
        "key-differs-container",
        "sed -i 's/^VLLM_API_KEY_[A-Z]*=.*/&x/' /opt/vllm/.env",
        says="vllm-hosts agents inventory/lab.py restart tiny",
        usual=True,
    ),
    Fault("key-differs-edge", f"sed -i 's/ \"/ \"x/' {MAPS}/internal.map && {RELOAD}"),
    Fault(
        "refused-by-vllm",
        f"cp -p {MAPS}/internal.map /root/ && sed -i 's/ \"/ \"x/' {MAPS}/internal.map && {RELOAD}"
        f" && mv /root/internal.map {MAPS}/",
        undo=RELOAD,
        asks="right",
    ),
    Fault("refused-by-edge", RELOAD, undo=RELOAD, asks="wrong", says=str(BRIDGE_V4.ip)),
    Fault("certificate-missing", f"rm {TLS}/certificate.pem"),
    Fault(
        "certificate-expired",
        certificate("-not_before 20250101000000Z -not_after 20250201000000Z") + f" && {RELOAD}",
        says="2025-02-01",
    ),
    Fault(
        "certificate-not-yet-valid",
        certificate("-not_before 20990101000000Z -not_after 20990201000000Z") + f" && {RELOAD}",
    ),
    Fault(
        "certificate-key-mismatch",
        certificate(
            "-days 30", "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null"
        ),
    ),
    Fault(
        "nginx-config-invalid",
        "echo 'no_such_directive on;' >/etc/nginx/conf.d/lab.conf",
        undo="rm /etc/nginx/conf.d/lab.conf",
        says="no_such_directive",
    ),
    Fault("nginx-config-invalid", f"echo 'no_such_directive on;' >>{CONF}"),
    Fault("nginx-down", "systemctl stop nginx", usual=True),
    Fault(
        "edge-unreachable",
        "nft 'add table inet lab;"
        " add chain inet lab first { type filter hook input priority -300; };"
        " add rule inet lab first tcp dport 443 drop'",
        undo="nft delete table inet lab",
    ),
    Fault("firewall-missing", "nft delete table inet vllm_hosts"),
    # Agents that do not serve
    Fault("agent-missing", "docker rm -f spare"),
    Fault(
        "agent-crash-loop",
        entrypoint('["python3", "-c", "raise KeyError(42)"]')
        + f" && {until(f'[ $({SPARE} {{{{.RestartCount}}}}) -ge 2 ]')}",
        says="KeyError: 42",
    ),
    Fault("agent-stopped", "docker stop -t 1 spare"),
    # tests/lab/test_8_watchdog.py makes engines hang; the timer would see that this one does not.
    Fault(
        "agent-given-up",
        "systemctl stop vllm-hosts-watchdog.timer; "
        + watched("total 3", "gave-up $(date +%s) stalled", "restart $(date +%s) stalled"),
        undo="rm /var/lib/vllm-hosts/watchdog/spare; systemctl start vllm-hosts-watchdog.timer",
        says="did not come back",
    ),
    Fault(
        "agent-was-restarted",
        watched("total 9", "restart $(date +%s) stuck", "restart $(date +%s) failed"),
        undo="rm /var/lib/vllm-hosts/watchdog/spare",
        says="2 times",
    ),
    Fault(
        "agent-unhealthy",
        processes("STOP")
        + f"; {until(f'{SPARE} {{{{.State.Health.Status}}}} | grep -q unhealthy')}",
        undo=processes("CONT"),
    ),
    Fault("agent-loading", "docker restart -t 1 spare"),
]

#: What cannot be made here, in the words that were recorded elsewhere: agent spare prints them and
#: ends, so that all but the cause is real.
RECORDED = {
    "weights-too-large": words.NO_KV_CACHE,
    "card-taken": words.CARD_TAKEN,
    "cuda-out-of-memory": words.CUDA_OOM,
    "fabric-manager-missing": words.CUDA_802,
    "driver-too-old": words.CUDA_804,
}

#: What is wrong on gateways only, in the lab that has some: test_8_fleet_doctor, and
#: test_8_fleet_address where they share one.
OF_FLEET = (
    *("balancer-down", "model-without-agent", "agent-out-of-rotation", "agent-drained"),
    *("keepalived-down", "virtual-address-nowhere", "virtual-address-twice"),
)
