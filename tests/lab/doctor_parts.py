"""What faults for the doctor are made of."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Literal

from lab.layout import BRIDGE_V4, HUB_MODEL, HUB_NAME, HUB_PORT, gpu_hosts
from tests.lab.sabotage.parts import recreated

TLS = "/etc/vllm-hosts/tls"
GPU1 = gpu_hosts(1)[0].ipv4
SPARE = "docker inspect spare --format"


@dataclass(frozen=True)
class Fault:
    """One fault of gpu1, and the diagnosis that must come first.

    A deploy heals it, after ``undo`` where nobody but the owner can. ``asks``: POST requests that
    the controller sends to agent tiny before the look, with which key. ``says`` must be in what
    is seen or said.
    """

    first: str
    do: str
    undo: str = ""
    says: str = ""
    asks: Literal["", "right", "wrong"] = ""
    #: Part of every run of the tests; the others are for the night.
    usual: bool = False


def fake(name: str, when: str, says: str, code: int = 0) -> str:
    """A program in front of the real one that answers so to certain arguments."""
    script = (
        f'#!/bin/sh\ncase "$*" in {when}) echo "{says}"; exit {code};; esac\n'
        f'exec /usr/bin/{name} "$@"\n'
    )
    encoded = base64.b64encode(script.encode()).decode()
    path = f"/usr/local/bin/{name}"
    return f"echo {encoded} | base64 -d >{path} && chmod 755 {path}"


def real(name: str) -> str:
    return f"rm -f /usr/local/bin/{name}"


def until(command: str) -> str:
    """Wait for minutes until a command succeeds."""
    return f"i=0; until {command}; do sleep 2; i=$((i+1)); [ $i -lt 150 ] || exit 1; done"


def logged(pattern: str) -> str:
    return until(f"docker logs spare 2>&1 | grep -q '{pattern}'")


def from_the_hub(model: str, revision: str = "v1", port: int = HUB_PORT, token: str = "") -> str:
    """Agent spare recreated so that vLLM itself asks the lab's hub, where a role did so before."""
    variables = {
        "HF_ENDPOINT": f"https://{HUB_NAME}:{port}",
        "REQUESTS_CA_BUNDLE": "/run/cas.pem",
        "SSL_CERT_FILE": "/run/cas.pem",
    }
    variables |= {"HF_TOKEN": token} if token else {}
    lines = "".join(f'      {name}: "{value}"\\n' for name, value in variables.items())
    cas = "/etc/ssl/certs/ca-certificates.crt"
    # As `egress` would let it; what it fetches lies in its own folder.
    way = (
        f"nft insert rule inet vllm_hosts forward iifname vllm-8002 ip daddr {BRIDGE_V4.ip} accept"
    )
    return f"{way} && " + recreated(
        f's#- "{HUB_MODEL}"#- "{model}"#; s#- "v1"#- "{revision}"#;'
        f" s#^ *HF_HUB_CACHE:.*##; s#^ *HF_HUB_OFFLINE:.*#{lines}#;"
        f' s#^    init: true#    extra_hosts: ["{HUB_NAME}:{BRIDGE_V4.ip}"]\\n&#;'
        f" s#^    volumes:#&\\n      - {cas}:/run/cas.pem:ro#"
    )


def entrypoint(command: str) -> str:
    return recreated(f"s/entrypoint: .*/entrypoint: {command}/")


def processes(signal: str) -> str:
    """A signal to every process in agent spare."""
    return (
        f"id=$({SPARE} '{{{{.Id}}}}'); for p in /proc/[0-9]*; do"
        f" ! grep -qs $id $p/cgroup || kill -{signal} ${{p#/proc/}}; done"
    )


def watched(*lines: str) -> str:
    """What the watchdog notes of agent spare; a shell fills the lines in."""
    text = "\n".join(lines)
    return f'(umask 077; echo "{text}" >/var/lib/vllm-hosts/watchdog/spare)'


def certificate(options: str, key: str = "-key key.pem") -> str:
    return (
        f"cd {TLS} && openssl req -x509 {key} -subj /CN=lab {options}"
        f" -addext subjectAltName=IP:{GPU1} >new.pem 2>/dev/null && mv new.pem certificate.pem"
    )


HEALTH = "*ecc.errors*"
#: What agent spare finds in /cache.
OWN = "/var/lib/vllm/agents/spare"
STRANGE = f"{OWN}/strange"
WORDS = f"{OWN}/lab-words"


def prints(text: str) -> str:
    """Agent spare recreated so that it prints this and ends, seen to have done so."""
    encoded = base64.b64encode(text.encode()).decode()
    return (
        f"echo {encoded} | base64 -d >{WORDS} && chmod 644 {WORDS} && docker rm -f spare && "
        + entrypoint('["sh", "-c", "cat \\/cache\\/lab-words; exit 1"]')
        + f" && {until(f'[ $({SPARE} {{{{.RestartCount}}}}) -ge 1 ]')}"
    )


NO_WORDS = f"rm -f {WORDS}"
