"""Every template has golden files, and each of them is what that template makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from ipaddress import IPv6Address
from unittest.mock import patch

import jinja2
import pytest

from tests.golden import check_golden
from tests.unit.fleets import fleet, with_a_mirror
from tests.unit.samples import CODER, QWEN, behind, gateway, settings
from tests.unit.test_balancer_plan import BALANCED
from tests.unit.test_compose_file import MEMORY
from tests.unit.test_edge_conf import AGENTS, DEBIAN_13, KEYS, OPEN, PLAIN, RICH, UBUNTU_22
from tests.unit.test_firewall import AROUND, BEHIND_TWO, ITS_GATEWAY, NARROW, OWN_PORTS
from vllm_hosts.host import render as rendering
from vllm_hosts.host.files import Entry, File
from vllm_hosts.host.services import compose_file
from vllm_hosts.project import new_site
from vllm_hosts.roles.balancer.plan import (
    balancer_entries,
    configuration,
    hand_over_script,
    save_script,
)
from vllm_hosts.roles.client_keys.plan import clients_map, expiry_entries, scopes_map
from vllm_hosts.roles.edge_logs.plan import log_entries
from vllm_hosts.roles.firewall.plan import firewall_entries, rules
from vllm_hosts.roles.mirror.plan import configuration as mirror_conf
from vllm_hosts.roles.mirror.plan import unit as mirror_unit
from vllm_hosts.roles.nginx.inner import pulse
from vllm_hosts.roles.nginx.lua_files import balance, by_model, counting, names, tokens
from vllm_hosts.roles.nginx.plan import edge_conf, included
from vllm_hosts.roles.nvidia_driver.plan import driver_files, persistence_unit
from vllm_hosts.roles.secrets.plan import secret_entries
from vllm_hosts.roles.ssh_hardening.plan import ssh_entries
from vllm_hosts.roles.virtual_address.plan import virtual_entries
from vllm_hosts.roles.watchdog.plan import watchdog_entries
from vllm_hosts.settings.fleet import VirtualAddress
from vllm_hosts.verify.report.collect import html
from vllm_hosts.verify.report.results import AgentSummary, Check, HostReport, Report

NEITHER = {"count_tokens": False, "cache_isolation": "off"}
UNCOUNTED = settings(agents=[QWEN, CODER], edge=NEITHER)
GROUPED = settings(edge={"cache_groups": [["bob", "alice"], ["carol"]]})
GATEWAY = gateway(edge={"names": ["llm.example.com"]})
BEHIND = behind(edge={"names": ["gpu1.example.com"]})
#: One that shares an address with another gateway.
SHARING = fleet({"gateway": {"virtual_ip": "192.0.2.9"}})["gw2"]
#: Three hosts, the first of which is the mirror.
MIRROR = with_a_mirror()
HARDENED = settings(ssh_hardening={"enabled": True})
#: An agent with all that others lack: a port of its own, a way out, and words that Compose and YAML
#: would take for something else.
EXPOSED = settings(
    agents=[
        QWEN
        | {
            "expose": {"networks": ["10.0.0.0/8", "2001:db8::/32"], "unguarded_routes": "accepted"},
            "egress": {"networks": ["192.0.2.0/24"], "names": True},
            "env": {"HF_HUB_OFFLINE": "0", "NOTE": "$VLLM_API_KEY ${X} 'q' \"d\": # {{ x }}"},
        }
    ],
    secrets={"hf_token_env": "MY_TOKEN"},
)


def within(entries: Callable[[], Iterable[Entry]], ending: str) -> Callable[[], str]:
    """What makes the content of the one file among these whose path ends so."""

    def made() -> str:
        [file] = [one for one in entries() if isinstance(one, File) and one.path.endswith(ending)]
        return file.content.decode()

    return made


def logs() -> list[Entry]:
    return log_entries(PLAIN.edge)


def watched() -> list[Entry]:
    return watchdog_entries(settings(agents=[QWEN, CODER]))


def shared() -> list[Entry]:
    assert SHARING.virtual is not None
    return virtual_entries(SHARING, SHARING.virtual, "eth0")


def shared_ipv6() -> list[Entry]:
    address, own = IPv6Address("2001:db8::9"), IPv6Address("2001:db8::1")
    peers = (IPv6Address("2001:db8::2"), IPv6Address("2001:db8::3"))
    host = settings(edge={"http_port": 8080})
    return virtual_entries(host, VirtualAddress(address, own, peers, 0), "enp1s0")


def report() -> str:
    agent = AgentSummary("one", "org/model", "one", 8001, (0,), ("10.0.0.0/8",), ("--x <lets>",))
    looks = [
        Check("NET-01", "gpu1", None, "kept", "", 0.1),
        Check("SEC-01", "gpu1", "one", "broken", "because <b>", 0.25),
        Check("TLS-01", "gpu1", None, "not checked", "nobody answers", 2.0),
    ]
    hosts = [
        HostReport("gpu1", "192.0.2.1", [agent], {"Docker": "29.1.0"}, looks, ["soon <b>"]),
        HostReport("gpu2", "192.0.2.2", []),
    ]
    return html(Report("prod", "0.1.0", datetime(2026, 11, 24, tzinfo=UTC), 39.0, hosts))


#: By template: golden files, and what makes the text of each.


def of_site(name: str) -> Callable[[], str]:
    """A file of a new site, by the name of its template."""

    def made() -> str:
        with (
            patch("getpass.getuser", lambda: "alice"),
            patch.object(new_site, "_ssh_key", lambda: "~/.ssh/id_ed25519"),
        ):
            files = dict(new_site._files())
        return files[next(file for file, one in new_site._FILES.items() if one == f"{name}.j2")]

    return made


GOLDEN: dict[str, dict[str, Callable[[], str]]] = {
    "balancer/haproxy.cfg": {
        "haproxy.cfg": lambda: configuration(BALANCED),
        "haproxy-shared-address.cfg": lambda: configuration(SHARING),
    },
    "balancer/hand-over-balancer.sh": {"hand-over-balancer.sh": hand_over_script},
    "balancer/save-balancer-state.sh": {"save-balancer-state.sh": save_script},
    "balancer/vllm-hosts-balancer.service": {
        "vllm-hosts-balancer.service": within(lambda: balancer_entries(BALANCED), ".service")
    },
    "client_keys/clients.map": {"clients.map": lambda: clients_map(KEYS.clients)},
    "client_keys/expire.sh": {"expire.sh": within(expiry_entries, "/expire-client-keys")},
    "client_keys/nginx-before.conf": {
        "nginx-before.conf": within(expiry_entries, "/nginx.service.d/vllm-hosts.conf")
    },
    "client_keys/scopes.map": {"scopes.map": lambda: scopes_map(AGENTS, KEYS.clients)},
    "client_keys/vllm-hosts-keys.service": {
        "vllm-hosts-keys.service": within(expiry_entries, "/vllm-hosts-keys.service")
    },
    "client_keys/vllm-hosts-keys.timer": {
        "vllm-hosts-keys.timer": within(expiry_entries, "/vllm-hosts-keys.timer")
    },
    "edge_logs/logrotate.conf": {"logrotate.conf": within(logs, "/edge-logs.conf")},
    "edge_logs/rotate.sh": {"rotate.sh": within(logs, "/rotate-edge-logs")},
    "edge_logs/vllm-hosts-edge-logs.service": {
        "vllm-hosts-edge-logs.service": within(logs, ".service")
    },
    "edge_logs/vllm-hosts-edge-logs.timer": {"vllm-hosts-edge-logs.timer": within(logs, ".timer")},
    "firewall/firewall.nft": {
        "default.nft": lambda: rules(settings(), [22], AROUND),
        "narrow.nft": lambda: rules(NARROW, [2222, 22], AROUND),
        "exposed.nft": lambda: rules(OWN_PORTS, [22], AROUND),
        "behind-gateways.nft": lambda: rules(BEHIND_TWO, [22], AROUND),
        "gateway.nft": lambda: rules(ITS_GATEWAY, [22], AROUND),
        "shared-address.nft": lambda: rules(SHARING, [22], AROUND),
        "mirror.nft": lambda: rules(MIRROR["gpu1"], [22], AROUND),
    },
    "firewall/vllm-hosts-firewall.service": {
        "vllm-hosts-firewall.service": within(
            lambda: firewall_entries(settings(), [22], AROUND), ".service"
        )
    },
    "mirror/nginx.conf": {"mirror.conf": lambda: mirror_conf(MIRROR["gpu1"])},
    "mirror/vllm-hosts-mirror.service": {
        "vllm-hosts-mirror.service": lambda: mirror_unit(MIRROR["gpu1"])
    },
    "nginx/by_model.lua": {
        "by_model.lua": lambda: by_model(RICH),
        "by_model-without-counting.lua": lambda: by_model(UNCOUNTED),
    },
    "nginx/checks.conf": {
        "checks.conf": lambda: included(PLAIN, UBUNTU_22)["checks"],
        "checks-with-web-pages.conf": lambda: included(OPEN, DEBIAN_13)["checks"],
    },
    "nginx/common.conf": {"common.conf": lambda: included(PLAIN, UBUNTU_22)["common"]},
    "nginx/cors.conf": {"cors.conf": lambda: included(OPEN, DEBIAN_13)["cors"]},
    "nginx/balance.lua": {"balance.lua": lambda: balance(GATEWAY)},
    "nginx/edge.conf": {
        "gateway.conf": lambda: edge_conf(GATEWAY, DEBIAN_13),
        "behind-gateways.conf": lambda: edge_conf(BEHIND, DEBIAN_13),
        "one-agent.conf": lambda: edge_conf(PLAIN, DEBIAN_13),
        "two-agents-nginx-1.18.conf": lambda: edge_conf(RICH, UBUNTU_22),
        "with-web-pages.conf": lambda: edge_conf(OPEN, DEBIAN_13),
    },
    "nginx/error.conf": {
        "error.conf": lambda: included(PLAIN, UBUNTU_22)["error"],
        "error-with-web-pages.conf": lambda: included(OPEN, DEBIAN_13)["error"],
    },
    "nginx/refused.conf": {"refused.conf": lambda: included(PLAIN, UBUNTU_22)["refused"]},
    "nginx/tls.conf": {
        "tls.conf": lambda: included(RICH, DEBIAN_13)["tls"],
        "tls-nginx-1.18.conf": lambda: included(RICH, UBUNTU_22)["tls"],
    },
    "nginx/counting.lua": {
        "counting.lua": lambda: counting(GROUPED),
        "counting-on-a-gateway.lua": lambda: counting(GATEWAY),
        "counting-without-caches.lua": lambda: counting(settings(edge={"cache_isolation": "off"})),
    },
    "nginx/inner.conf": {
        "inner.conf": lambda: included(BEHIND, DEBIAN_13)["inner"],
        "inner-nginx-1.18.conf": lambda: included(BEHIND, UBUNTU_22)["inner"],
    },
    "nginx/names.lua": {"names.lua": lambda: names(BEHIND)},
    "nginx/pulse.lua": {"pulse.lua": lambda: pulse(BEHIND)},
    "nginx/tokens.lua": {"tokens.lua": lambda: tokens(RICH)},
    "nginx/upstream.conf": {
        "upstream.conf": lambda: included(RICH, DEBIAN_13)["upstream"],
        "upstream-of-a-gateway.conf": lambda: included(GATEWAY, DEBIAN_13)["upstream"],
        "upstream-behind-gateways.conf": lambda: included(BEHIND, DEBIAN_13)["upstream"],
    },
    "nvidia_driver/nouveau.conf": {"nouveau.conf": within(driver_files, "nouveau.conf")},
    "nvidia_driver/nvidia-persistenced.service": {
        "nvidia-persistenced.service": lambda: persistence_unit().content.decode()
    },
    "nvidia_driver/unattended-upgrades": {
        "unattended-upgrades": within(driver_files, "51vllm-hosts-nvidia")
    },
    "report/report.html": {"report.html": report},
    "secrets/env": {"env": within(lambda: secret_entries(RICH, KEYS), "/.env")},
    "ssh_hardening/sshd.conf": {"sshd.conf": within(lambda: ssh_entries(HARDENED), ".conf")},
    "virtual_address/keepalived.conf": {
        "keepalived.conf": within(shared, "/keepalived.conf"),
        "keepalived-ipv6.conf": within(shared_ipv6, "/keepalived.conf"),
    },
    "virtual_address/gateway-answers": {"gateway-answers": within(shared, "/gateway-answers")},
    "virtual_address/vllm-hosts-keepalived.service": {
        "vllm-hosts-keepalived.service": within(shared, ".service")
    },
    "vllm/compose.yaml": {
        "one-agent.yaml": lambda: compose_file(settings(), MEMORY),
        "two-agents.yaml": lambda: compose_file(settings(agents=[QWEN, CODER]), MEMORY),
        "exposed.yaml": lambda: compose_file(EXPOSED, MEMORY),
    },
    "watchdog/vllm-hosts-watchdog.service": {
        "vllm-hosts-watchdog.service": within(watched, ".service")
    },
    "watchdog/vllm-hosts-watchdog.timer": {"vllm-hosts-watchdog.timer": within(watched, ".timer")},
    "watchdog/watch.sh": {"watch.sh": within(watched, "/watch-agents")},
}


GOLDEN |= {
    f"site/{name}": {f"{name}.txt": of_site(name)}
    for name in (one.removesuffix(".j2") for one in new_site._FILES.values())
}


def test_every_template_has_a_golden_file() -> None:
    there = {name.removesuffix(".j2") for name in rendering._environment().list_templates()}
    assert there == set(GOLDEN)


@pytest.mark.parametrize(
    ("template", "golden"), [(one, file) for one, files in GOLDEN.items() for file in files]
)
def test_what_a_template_makes(template: str, golden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    get_template = jinja2.Environment.get_template

    def noted(self: jinja2.Environment, name: str, *given: object) -> jinja2.Template:
        used.append(name)
        return get_template(self, name, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(jinja2.Environment, "get_template", noted)
    # Nothing that was rendered, or looked for, by another test of this process.
    monkeypatch.setattr(rendering, "_rendered", {})
    monkeypatch.setattr(rendering, "_template", rendering._template.__wrapped__)
    made = GOLDEN[template][golden]()
    assert f"{template}.j2" in used
    check_golden(f"{template.split('/')[0]}/{golden}", made)
