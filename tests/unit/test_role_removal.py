"""remove.py on a host that was deployed to, step by step."""

from __future__ import annotations

import runpy
from dataclasses import replace

import pytest

from tests.golden import check_golden
from tests.unit.projects import ROOT
from tests.unit.recording import InLine, Recorder
from tests.unit.test_removal_plan import AGENT, THEIRS, removal
from vllm_hosts.facts.nginx import Nginx
from vllm_hosts.host.files import Found
from vllm_hosts.host.manifest import Before
from vllm_hosts.host.nginx import MAIN_CONF, MainConf
from vllm_hosts.host.paths import FIREWALL_RULES, STORE_MARK
from vllm_hosts.host.remains import DockerHolds, Remains, Version
from vllm_hosts.keys import KeyStore

DAEMON = "/etc/docker/daemon.json"
FIREWALL = "The firewall is open, as it was"
LAST = "Nothing of ours is left on the host"


def remove_py() -> None:
    """The whole removal, as its entry file calls it."""
    runpy.run_path(str(ROOT / "remove.py"))


def leaving(recorder: Recorder, remains: Remains) -> Recorder:
    """The recorded host, with what else is there."""
    host = recorder.host
    files = tuple(path for path, found in host.paths.items() if found.kind == "f")
    manifest = replace(remains.manifest, files=files)
    host.facts["HostRemains"] = replace(remains, manifest=manifest)
    daemon = host.contents[DAEMON]
    conf = host.contents[MAIN_CONF]
    host.facts["Versions"] = {
        DAEMON: Version(daemon, None, daemon),
        MAIN_CONF: Version(conf, conf.replace(b"connections 16", b"connections 7"), conf),
    }
    host.facts["NginxState"] = Nginx("", active=True, enabled=True)
    host.facts["NginxMainConf"] = MainConf("regular file", conf, 0o644, "root", "root")
    folder = Found("d", 0o755, ("root", "0"), ("root", "0"))
    for path in ("/var/lib/vllm-hosts", "/etc/vllm-hosts", "/var/lib/docker"):
        host.paths.setdefault(path, folder)
    return recorder


@pytest.fixture
def gone(in_line: InLine) -> Recorder:
    """A host that had nothing before, with nothing of anybody else's since."""
    recorder = leaving(in_line(), removal(AGENT).remains)
    remains = recorder.host.facts["HostRemains"]
    stopped = replace(remains, docker=replace(remains.docker, containers=()))
    recorder.host.after = {
        "docker rm -f": {"HostRemains": stopped},
        "removing packages": {"HostRemains": replace(remains, docker=DockerHolds())},
    }
    return recorder


def test_golden_what_a_host_loses(gone: Recorder) -> None:
    """The whole removal on one page."""
    done = gone.run(remove_py)
    assert not done.failed, done.said
    lines = [line for operation in done.operations for line in operation.shown()]
    effects = [f"effect: {line}" for line in done.effects]
    check_golden("roles/removal.txt", "".join(f"{line}\n" for line in (*lines, *effects)))


def test_a_host_whose_agents_are_elsewhere_is_left_alone(gone: Recorder) -> None:
    remains = gone.host.facts["HostRemains"]
    files = tuple(path.replace("/opt/vllm/", "/srv/vllm/") for path in remains.manifest.files)
    manifest = replace(remains.manifest, files=files)
    gone.host.facts["HostRemains"] = replace(remains, manifest=manifest)
    done = gone.run(remove_py)
    assert done.operations == []
    [refused] = done.refused
    assert "keep the agents of this host in /srv/vllm, and the settings say /opt/vllm" in refused
    assert "set vllm.directory = '/srv/vllm'" in refused


def test_the_edge_closes_first_and_the_firewall_opens_last(gone: Recorder) -> None:
    names = [name.partition(" | ")[2] for name in gone.run(remove_py).changed]
    edge = names.index("The edge is closed, and its keys are gone")
    assert edge < names.index("The agents and their networks are gone") < names.index(FIREWALL)
    assert names[-1] == LAST
    assert names.index(FIREWALL) == len(names) - 3


def test_the_firewall_stays_while_there_is_an_agent(gone: Recorder) -> None:
    """The recorded agent cannot be removed: what the look says of it stays."""
    gone.host.after = {}
    done = gone.run(remove_py)
    assert done.failed
    assert "the firewall stays closed, since agent qwen is still there" in " ".join(done.said)
    assert gone.host.paths[FIREWALL_RULES].kind == "f"


def test_its_store_forgets_the_host_and_keeps_the_clients(gone: Recorder) -> None:
    name, store = gone.host.settings.name, KeyStore(gone.inventory)
    clients = store.read().clients
    assert name in store.read().hosts
    assert gone.run(remove_py).failed is False
    assert name not in {*store.read().hosts, *store.read().internal}
    assert store.read().clients == clients


def test_a_host_of_another_inventory_is_left_alone(gone: Recorder) -> None:
    gone.host.contents[STORE_MARK] = f"inventory other\nstore {'9' * 32}\n".encode()
    done = gone.run(remove_py)
    assert done.refused and done.changed == []


def test_docker_and_nginx_of_somebody_s_go_on(in_line: InLine) -> None:
    before = Before(
        frozenset({"libc6", "init", "docker-ce", "containerd.io", "nginx", "nginx-common"}),
        enabled=frozenset({"nginx.service"}),
    )
    remains = removal(AGENT, THEIRS, before=before).remains
    recorder = leaving(in_line(), remains)
    done = recorder.run(remove_py)
    edge = done["The edge is closed, and its keys are gone"]
    assert "nginx -t -q" in edge and "systemctl reload nginx.service" in edge
    # It was enabled, and did not run.
    assert "systemctl stop nginx.service" in edge and "disable --quiet nginx" not in edge
    assert recorder.host.contents[MAIN_CONF] == recorder.host.facts["Versions"][MAIN_CONF].before
    daemon = done["daemon.json has its own settings"]
    assert "--signal=HUP" in daemon and "systemctl restart" not in daemon
    packages = done["The packages that only we needed are gone"]
    assert "purge libnv nvidia-container-toolkit-base" in packages
    assert "docker stop -t 30 " + AGENT.id in done["The agents and their networks are gone"]
    assert not any(THEIRS.id in command for one in done.operations for command in one.commands)


def test_a_host_from_an_earlier_version(in_line: InLine) -> None:
    recorder = leaving(in_line(), removal(before=None).remains)
    done = recorder.run(remove_py)
    assert not done.failed
    changed = {name.partition(" | ")[2] for name in done.changed}
    assert not changed & {
        "daemon.json has its own settings",
        "The packages that only we needed are gone",
        "apt has its own archives",
    }
    assert {FIREWALL, LAST, "Our files are gone"} <= changed
    assert any("an earlier version deployed first" in line for line in done.effects)


def test_a_second_run_changes_nothing(in_line: InLine) -> None:
    recorder = in_line()
    leaving(recorder, Remains(removal().remains.manifest, docker=DockerHolds()))
    recorder.run(remove_py)
    host = recorder.host
    host.paths.clear()
    host.contents.clear()
    host.facts["HostRemains"] = Remains()
    host.facts["Versions"] = {DAEMON: Version(), MAIN_CONF: Version()}
    host.facts["HostMark"] = type(host.facts["HostMark"])(None)
    done = recorder.run(remove_py)
    assert (done.failed, done.refused, done.changed) == (False, [], [])
    assert done.effects == ["nothing of ours is on the host"]


def test_notes_that_name_a_folder_of_others_leave_all_as_it_is(gone: Recorder) -> None:
    remains = gone.host.facts["HostRemains"]
    manifest = replace(remains.manifest, agents=("/opt/agents/a", "/var/lib/vllm"))
    gone.host.facts["HostRemains"] = replace(remains, manifest=manifest)
    done = gone.run(remove_py)
    assert "names a folder of others: 'agent /var/lib/vllm'" in " ".join(
        [*done.said, *done.refused]
    )
    assert not done.changed and not done.effects
