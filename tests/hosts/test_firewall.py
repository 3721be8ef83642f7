"""The firewall's table, in the kernel and at boot."""

from __future__ import annotations

import re

from testinfra.host import Host

from roles.firewall.plan import RULES, UNIT, rules
from tests.hosts.test_sockets import ssh_ports
from vllm_hosts.settings import HostSettings

_LIST = "nft -s list table inet vllm_hosts"


def test_the_table_in_the_kernel_is_the_one_in_the_file(host: Host, settings: HostSettings) -> None:
    # What the same file makes of an empty ruleset, in a network namespace of its own.
    assert host.check_output(_LIST) == host.check_output(
        f"unshare -n sh -c 'nft -f {RULES} && {_LIST}'"
    )


def test_the_table_in_the_file_is_what_the_settings_say(host: Host, settings: HostSettings) -> None:
    assert host.file(RULES).content_string == rules(settings, ssh_ports(host))


def test_nothing_passes_the_table_by_default(host: Host, settings: HostSettings) -> None:
    live = host.check_output(_LIST)
    assert "hook input priority filter - 10; policy drop;" in live
    assert re.search(r'oifname \{ (?=.*"docker0")(?=.*"br-\*").* \} drop', live)


def test_it_is_loaded_at_boot_before_docker(host: Host, settings: HostSettings) -> None:
    assert host.service(UNIT).is_enabled
    assert host.service(UNIT).is_running
    before = host.check_output(f"systemctl show -p Before --value {UNIT}").split()
    assert {"docker.service", "network-pre.target"} <= set(before)
