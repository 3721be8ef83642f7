"""The other half of the facts, and nft's listing, fed with mutations of real answers."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vllm_hosts
from tests.unit.examples import examples
from tests.unit.fakes import inspect_line, inspected
from tests.unit.programs.test_doors import EDGE, SETTINGS
from tests.unit.programs.test_doors import GOOD as RULES
from tests.unit.samples import settings as host_settings
from tests.unit.stand_in_host import StandInHost
from tests.unit.test_odd_answers import FACTS as FED
from tests.unit.test_odd_answers import HTTP, LOGGED, METRICS, STATS, STRAY, TOP_ROW, mutated
from vllm_hosts.doctor.query import DoctorLook
from vllm_hosts.errors import HostError
from vllm_hosts.facts.answered_inside import AnsweredInside
from vllm_hosts.facts.apt import AptPackages
from vllm_hosts.facts.balancer import BalancerState
from vllm_hosts.facts.base import END, HostFact
from vllm_hosts.facts.compose import AgentLog, HealthChecks
from vllm_hosts.facts.docker import AgentsServed, DockerDaemon, DockerUnit, ImageId
from vllm_hosts.facts.edge import EdgeRuns
from vllm_hosts.facts.firewall import FirewallLoaded, OtherFirewalls
from vllm_hosts.facts.gateway_reach import WaysToHosts
from vllm_hosts.facts.hub import HubModels, ModelCopy
from vllm_hosts.facts.lock import HostHistory, LockState, Released
from vllm_hosts.facts.mark import HostMark
from vllm_hosts.facts.mirror import MirrorState
from vllm_hosts.facts.nginx import EdgeState
from vllm_hosts.facts.nginx_sites import NginxSites
from vllm_hosts.facts.remains import HostRemains, Versions
from vllm_hosts.facts.rotation import BalancerSeen
from vllm_hosts.facts.ssh import PasswordLogins
from vllm_hosts.facts.system import HostMemory
from vllm_hosts.facts.tls import GatewayCertificate, HostCertificate, MirrorCertificate
from vllm_hosts.facts.token_usage import TokenUsage
from vllm_hosts.facts.virtual_address import VirtualGround, VirtualState
from vllm_hosts.facts.vllm_images import ImageRoom
from vllm_hosts.facts.way_back import WayBackFound
from vllm_hosts.host.docker_unit import unit_problems
from vllm_hosts.host.way_back import KeptDefinition
from vllm_hosts.operations.gpu import LastGpuCheck
from vllm_hosts.rehearsal.fact import RehearsalGrounds, Rehearsals
from vllm_hosts.suite.doors import wrong
from vllm_hosts.suite.packets import Table, listing
from vllm_hosts.suite.test_firewall import strangers_first
from vllm_hosts.top.poll import Doing

INSIDE = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"data": []}'
SHA = "a" * 64
#: As iproute2 prints them on Debian 12.
ADDRESSES = (
    '[{"ifname":"lo","link_type":"loopback","addr_info":[{"family":"inet","local":"127.0.0.1",'
    '"prefixlen":8}]},{"ifname":"eth0","link_type":"ether","addr_info":[{"family":"inet",'
    '"local":"192.0.2.1","prefixlen":24,"scope":"global"},{"family":"inet6","local":"fe80::1",'
    '"prefixlen":64,"scope":"link"}]}]'
)
NEIGHBOURS = (
    '[{"dst":"192.0.2.2","dev":"eth0","lladdr":"02:00:00:00:00:02","state":["REACHABLE"]},'
    '{"dst":"192.0.2.9","dev":"eth0","state":["FAILED"]}]'
)
ROUTER = '[{"dst":"default","gateway":"192.0.2.254","dev":"eth0","flags":[]}]'
ROUTES = [
    '[{"type":"local","dst":"127.0.0.1","dev":"lo","prefsrc":"127.0.0.1","flags":[],"uid":0}]',
    '[{"dst":"192.0.2.11","dev":"eth0","prefsrc":"192.0.2.1","flags":[],"uid":0}]',
]
COMMIT = "b" * 40
DEFINITION = KeptDefinition.of(host_settings(), f"sha256:{SHA}")
SAID = "\r\n".join([*(line.rstrip("\r") for line in HTTP[:4]), *METRICS]).encode()
NGINX = next(lines for fact, lines in FED if type(fact).__name__ == "NginxState")
MAIN = next(lines for fact, lines in FED if type(fact).__name__ == "NginxMainConf")
TREE = next(lines for fact, lines in FED if type(fact).__name__ == "TreeState")
SITES = [
    "== welcome", "own", "== pages", "index.html", "== listens",
    "/etc/nginx/conf.d/a.conf 80 default_server", "/etc/nginx/conf.d/a.conf [::]:8080",
]  # fmt: skip
PLACES = [
    "== images", "kind docker", "feature -", "root /var/lib/docker", "free root 53687091200",
    "store /var/lib/containerd", "free store 1",
]  # fmt: skip


def rehearsals() -> Rehearsals:
    """What it was asked, it is told with its command."""
    fact = Rehearsals()
    fact.asked, fact.mark = {"qwen", "coder"}, "@@"
    return fact


REHEARSED = [
    f"qwen 0 {b64encode(b'@@{}@@').decode()}",
    f"coder 1 {b64encode(b'ImportError: no vllm here').decode()}",
]
FACTS: list[tuple[HostFact[Any], list[str]]] = [
    (rehearsals(), [f"= org--model@main-0123456789 {COMMIT}", *REHEARSED]),
    (
        RehearsalGrounds(),
        [
            *["== image", f"sha256:{SHA}", "== folders", f"folder {SHA} /srv/models/coder"],
            *["folder - /srv/models/none", "== gpus"],
            "0, NVIDIA H200, GPU-0, 143771, 590.48.01, 9.0, Disabled, Enabled",
            *["exit 0", "== programs", "7, 5638, GPU-0", "exit 0", "name 7 python3", "of 7 ours"],
        ],
    ),
    (
        HealthChecks(),
        [
            "== checks",
            '{"name":"/qwen","checks":["OCI runtime exec failed: a","OCI runtime exec failed: b",'
            '"OCI runtime exec failed: c",null]}',
            '{"name":"/coder","checks":[null]}',
        ],
    ),
    (
        AgentLog(),
        ["== log", "INFO 11-25 09:00:00 [x.py:1] Starting", "== heading of its own", "ValueError"],
    ),
    (
        LOGGED,
        ["== read at", "2026-11-25T09:00:00.123456789Z", "== qwen", "present",
         "> 2026-11-25T08:59:00.5Z INFO: started", "== coder"],
    ),
    (
        AgentsServed(),
        ["== live", "true", "== containers", inspect_line("qwen"), inspect_line("coder"),
         "== starts", "/var/lib/vllm-hosts/starts/qwen:95"],
    ),
    (
        BalancerSeen(),
        ["== admin", "1", "# be_id be_name srv_id srv_name srv_op_state srv_admin_state srv_port",
         "3 qwen 7 qwen.h1 2 8 8443", "", "== now",
         "# pxname,svname,scur,status,check_status,check_desc,",
         "qwen,qwen.h1,3,UP,L7OK,Layer7 check passed,", "", "== before 4711",
         "# pxname,svname,scur,status,check_status,check_desc,", "", "== by hand", "qwen.h1"],
    ),
    (
        AnsweredInside(),
        ["== said", f"answer {base64.b64encode(INSIDE).decode()}", "a word of openssl's"],
    ),
    (
        AptPackages(),
        ["== installed", "ii |docker-ce|5:28.5.1-1", "un |docker.io|", "== held", "docker-ce"],
    ),
    (
        Doing(),
        ["== containers", json.dumps(inspected("one")), "== gpus", TOP_ROW, "exit 0",
         "== metrics one", "1234.56", base64.b64encode(gzip.compress(SAID)).decode(),
         "== stats", STATS],
    ),
    (
        BalancerState(),
        ["== user", "0", "== admin", "1",
         "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_port",
         "3 qwen 7 qwen.h1 192.0.2.1 2 0 8443", "3 qwen 9 qwen.h2 192.0.2.2 1 8 8443", "",
         "== now", "# pxname,svname,scur,status,check_status,check_desc,",
         "qwen,qwen.h1,3,UP,L7OK,Layer7 check passed,",
         'qwen,qwen.h2,1,DOWN 1/2,L7STS,"Layer7 wrong, ""status""",',
         "", "== before 4711", "# pxname,svname,scur,status,check_status,check_desc,",
         "qwen,qwen.h2,2,UP,L7OK,Layer7 check passed,", ""],
    ),
    (
        DockerUnit(),
        ["== log driver", "== unit /lib/systemd/system/docker.service",
         "| ExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS",
         "== unit /etc/systemd/system/docker.service.d/a.conf", "| ExecStart=",
         "| ExecStart=/usr/bin/dockerd --live-restore", "== environment /etc/default/docker",
         "| DOCKER_OPTS='--log-opt max-size=1m'"],
    ),
    (EdgeRuns(), ["== edge", "active"]),
    (EdgeState(), [*NGINX, END, *MAIN, END, *SITES, END, *TREE]),
    (
        HostCertificate(),
        ["== certificate", "-----BEGIN CERTIFICATE-----", "AAAA", "-----END CERTIFICATE-----",
         "== public key", "-----BEGIN PUBLIC KEY-----", "AAAA", "-----END PUBLIC KEY-----"],
    ),
    (
        GatewayCertificate(),
        ["== certificate", "-----BEGIN CERTIFICATE-----", "AAAA", "-----END CERTIFICATE-----",
         "== public key", "-----BEGIN PUBLIC KEY-----", "AAAA", "-----END PUBLIC KEY-----"],
    ),
    (HostMark(), ["== file", "regular file|600|root|0|root|0|/etc/vllm-hosts/store",
                  "== mark", "# Whose keys", f"store {SHA}", "== user", "0",
                  "== there", "/opt/vllm/.env", "== noted", "file /opt/vllm/.env",
                  "agent /var/lib/vllm/agents/qwen", "recorded /opt/vllm/.env"]),
    (
        HostHistory(),
        ["== user", "0", "== history",
         '2026-11-26T08:00:00Z 192.0.2.7 {"who": "a@b", "what": "deploy.py of prod.py",'
         ' "since": "2026-11-26T07:00:00Z", "commit": "abc", "version": "1", "ended": "done",'
         ' "changed": ["Docker | daemon.json is merged"]}'],
    ),
    (
        LockState(),
        ["== user", "0", "== held", "held", "== owner",
         '4711 962bd73d-5bb1 192.0.2.7 {"who": "a@b", "what": "keys.py", "since": "2026"}',
         "== left", "process 12 2026-11-26T08:00:00Z apt-get", "undo firewall"],
    ),
    (Released(), ["== user", "0", "== free", "free"]),
    (HostMemory(), ["== memory", "131072000"]),
    (
        HubModels(),
        ["== Qwen--Qwen3-8B", f"commit {COMMIT}", "file 1208 config.json",
         "file 5000 model.safetensors", f"ref {COMMIT}", "there 1208 config.json",
         "there 5000 model.safetensors", "== org--other"],
    ),
    (
        HostRemains(),
        ["== asked", "/opt/vllm|vllm|vllm-hosts-fetch|vllm-", "== manifest", "package nginx",
         "hold libnvidia-container1", "source /etc/apt/keyrings/docker.asc",
         f"gave-way {SHA} /etc/apt/sources.list", "gave-way - /etc/apt/sources.list.d/a b.list",
         "model /srv/models/coder", "== files", "/etc/nginx/conf.d/vllm-hosts.conf",
         "== unended",
         "== before packages", "libc6", "== before held", "== before enabled", "docker.service",
         "== before active", "== before images", f"sha256:{SHA}", "== before paths", "/etc/docker",
         "== before groups", "root", "== installed",
         "ii |nginx|, nginx-common (= 1.26.3), iproute2 | net-tools (>= 1)|a|httpd, h-cgi (= 1)",
         "rc |docker.io|,||", "== automatic", "nginx-common:all", "== held", "nginx", "== sites",
         "/etc/nginx/conf.d/wiki.conf", "== rules", "enabled", "== haproxy", "== keepalived",
         "== docker", "installed", "== images used",
         f"sha256:{SHA} vllm/vllm-openai:v0.33.0", "== inside", "f 600 0 /opt/vllm/.env",
         "d 700 64101 /var/lib/vllm/agents/qwen", "== containers",
         f"{SHA}|/qwen|vllm|/opt/vllm|true", f"{SHA}|/db|||false", "== networks", "bridge||docker0",
         "vllm_qwen|vllm|vllm-8001", "vllm-fetch||vllm-fetch", "theirs||", "== images",
         f"sha256:{SHA}", "== volumes", "data", "== answers"],
    ),
    (
        TokenUsage(),
        ["== user", "0", "== usage", "since 2026-11-01", "12 3400 1000 560 1 alice"],
    ),
    (
        Versions(),
        ["== now /etc/docker/daemon.json", "there", "e30=", "== before /etc/docker/daemon.json",
         "== deployed /etc/docker/daemon.json", "there", "e30="],
    ),
    (ImageId(), ["== id", f"sha256:{SHA}"]),
    (ImageRoom(), PLACES),
    (
        LastGpuCheck(),
        ["== seen", "GPU-0, 590.48.01", "1.20.1-1", "0", "== now", "GPU-0, 590.48.01", "1.20.1-1",
         "0"],
    ),
    (
        ModelCopy(),
        ["== free", "53687091200", "== folder", "present", "1208 config.json", "== staged",
         "77 model.safetensors", "== stamp", "source abc", f"file {SHA} config.json"],
    ),
    (NginxSites(), SITES),
    (OtherFirewalls(), ["== active", "ufw", "firewalld"]),
    (
        WayBackFound(),
        ["== present", SHA, "== now", SHA, "2026-11-26 09:00:00 UTC", DEFINITION.text.strip(),
         "== before", "== undone", SHA, "2026-11-26 09:00:00 UTC", "== guarded",
         "network 198.18.0.0/16", "ports 8001, 8002"],
    ),
    (
        VirtualGround(),
        ["== addresses", ADDRESSES, "== neighbours", NEIGHBOURS, "== routers", ROUTER, "[]"],
    ),
    (
        MirrorCertificate(),
        ["== certificate", "-----BEGIN CERTIFICATE-----", "AAAA", "-----END CERTIFICATE-----",
         "== public key", "-----BEGIN PUBLIC KEY-----", "AAAA", "-----END PUBLIC KEY-----"],
    ),
    (
        MirrorState(),
        ["== files", "/etc/docker/certs.d/192.0.2.11:8444/client.key",
         "/etc/vllm-hosts/mirror/nginx.conf", "== images", "0123456789abcdef", "== data", "there"],
    ),
    (
        WaysToHosts(),
        ["== named", "gpu1.example.com 192.0.2.11", "== routes", *ROUTES],
    ),
    (VirtualState(), ["== addresses", ADDRESSES, "== address 192.0.2.9", "== active", "active"]),
    (
        PasswordLogins(),
        ["== effective", "port 22", "passwordauthentication no", "kbdinteractiveauthentication no",
         "permitrootlogin without-password"],
    ),
]  # fmt: skip
IDS = [type(fact).__name__ for fact, _ in FACTS]


def test_every_fact_is_fed() -> None:
    """A new one is fed too, or this test fails."""
    for path in Path(vllm_hosts.__file__).parent.rglob("*.py"):
        if "(HostFact[" in path.read_text():
            __import__(".".join(["vllm_hosts", *path.relative_to(Path(vllm_hosts.__file__).parent)
                                 .with_suffix("").parts]))  # fmt: skip
    known = {type(fact) for fact, _ in (*FACTS, *FED)} | {DoctorLook}
    assert {fact for fact in HostFact.__subclasses__() if "vllm_hosts" in fact.__module__} <= known


@pytest.mark.parametrize(("fact", "lines"), FACTS, ids=IDS)
def test_a_fact_reads_its_own_sample(fact: HostFact[Any], lines: list[str]) -> None:
    assert fact.process([*lines, END]) is not None


def feed(fact: HostFact[Any], lines: list[str]) -> Any:
    """What it makes of them; None where it says that it cannot tell."""
    try:
        return fact.process([*lines, END])
    except HostError as error:
        text = str(error)
        assert (
            fact.what in text
            or "could not be" in text
            or "as root" in text
            or "restore that file" in text
            or "has no access log" in text
            or "does not answer on its runtime socket" in text
        )
        return None


@pytest.mark.parametrize(("fact", "lines"), FACTS, ids=IDS)
@settings(max_examples=examples(20), deadline=None)
@given(data=st.data())
def test_a_fact_understands_or_says_that_it_does_not(
    fact: HostFact[Any], lines: list[str], data: st.DataObject
) -> None:
    found = feed(fact, data.draw(mutated(lines)))
    if isinstance(fact, OtherFirewalls) and found is not None:
        assert len(found.sentences([443])) == len(found.names)
    if isinstance(fact, DockerUnit) and found is not None:
        assert list(unit_problems(host_settings(), found)) is not None


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The doctor's script, run for real."""
    lines = StandInHost(tmp_path_factory.mktemp("host")).output().splitlines()
    return lines[: lines.index(END)]


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data())
def test_the_doctor_s_look_understands_or_says_that_it_does_not(
    looked_at: list[str], data: st.DataObject
) -> None:
    assert feed(DoctorLook(), looked_at) is not None
    feed(DoctorLook(), data.draw(mutated(looked_at)))


def test_an_nginx_that_says_no_state(looked_at: list[str]) -> None:
    odd = ["active" if line == "active active" else line for line in looked_at]
    assert odd != looked_at
    with pytest.raises(HostError, match="could not be understood"):
        DoctorLook().process([*odd, END])


#: One answer that is odd, and would be taken for: nobody is there.
ODD: list[tuple[HostFact[Any], list[str]]] = [
    (AgentsServed(), ["== live", "True?", "== containers", "== starts"]),
    (EdgeRuns(), ["== edge", "activ"]),
    (AnsweredInside(), ["== said", "answer no base64"]),
    (BalancerSeen(), ["== admin", "== now", "== by hand"]),
    (GatewayCertificate(), ["== certificate", "== public key", "Could not read private key"]),
    (HostCertificate(), ["== certificate", "== public key", "Could not read private key"]),
    (MirrorCertificate(), ["== certificate", "== public key", "Could not read private key"]),
    (MirrorState(), ["== files", "/etc/docker/certs.d/../../passwd", "== images", "== data"]),
    (HostRemains(), ["== asked", "a|b|c|d", "== unended", "== manifest"]),
    (Versions(), ["== now /etc/docker/daemon.json", "there", "no base64"]),
    (ImageId(), ["== id", "Killed"]),
    (NginxSites(), ["== welcome", "Killed", "== pages", "== listens"]),
    (OtherFirewalls(), ["== active", "Failed to connect to bus: No such file or directory"]),
    (
        DockerDaemon(),
        ["== active", "Failed to connect to bus", "== enabled",
         "== config", "== stale"],
    ),
    (FirewallLoaded(), ["== live", "== file", "== rules", "present", "== enabled", "== active"]),
    (PasswordLogins(), ["== effective", "port 22"]),
    (HostMemory(), ["== memory"]),
    (VirtualGround(), ["== addresses", "Killed", "== ours", "yes"]),
    (WaysToHosts(), ["== named", "== routes"]),
    (VirtualState(), ["== addresses", "{}", "== address 192.0.2.9", "== active"]),
]  # fmt: skip


@pytest.mark.parametrize(("fact", "lines"), ODD, ids=[type(fact).__name__ for fact, _ in ODD])
def test_odd_is_not_absent(fact: HostFact[Any], lines: list[str]) -> None:
    with pytest.raises(HostError, match="could not be understood"):
        fact.process([*lines, END])


def test_a_firewall_that_cannot_be_listed_is_not_in_force() -> None:
    """Neither from the kernel nor from the file: both are the digest of nothing."""
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  -"
    lines = ["== live", nothing, "== file", nothing, "== rules", "present"]
    found = FirewallLoaded().process([*lines, "== enabled", "== active", END])
    assert not found.in_force


@given(st.lists(st.sampled_from([line for line in STRAY if line]), max_size=4))
def test_whatever_an_agent_prints_is_its_log(printed: list[str]) -> None:
    log = ["== log", *printed, "== Loading ==", "the reason"]
    assert AgentLog().process([*log, END]) == (*printed, "== Loading ==", "the reason")


@pytest.fixture(scope="module")
def nft_says() -> str:
    """nft's own words about a table as it should be, with another one beside it."""
    other = "table ip nat {\nchain pre {\ntype nat hook prerouting priority dstnat;\n}\n}\n"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", "nft -f - && nft -j list ruleset"],
        input=f"{RULES}{other}",
        capture_output=True,
        text=True,
        check=True,
    )
    return json.dumps(json.loads(done.stdout), indent=1)


def nft_read(text: str) -> list[str]:
    ruleset = listing(text)
    return [*wrong(Table(ruleset), SETTINGS, {22}, EDGE), *strangers_first(ruleset)]


@settings(max_examples=examples(20), deadline=None)
@given(data=st.data())
def test_nft_s_listing_is_understood_or_said_not_to_be(nft_says: str, data: st.DataObject) -> None:
    try:
        nft_read("\n".join(data.draw(mutated(nft_says.splitlines()))))
    except HostError as error:
        assert str(error)  # noqa: PT017


def _places(part: Any) -> list[Any]:
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return [part, *(place for one in inner for place in _places(one))]


@settings(max_examples=examples(30), deadline=None)
@given(data=st.data())
def test_nft_s_listing_with_another_value_somewhere(nft_says: str, data: st.DataObject) -> None:
    """JSON that is whole, as another version of nft may print it."""
    ruleset = json.loads(nft_says)
    place = data.draw(st.sampled_from([one for one in _places(ruleset) if one and one is not None
                                       and isinstance(one, dict | list)]))  # fmt: skip
    key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
    odd = st.sampled_from([None, "", "odd", -1, 1.5, [], {}, ["x"], {"x": 1}, True])
    place[key] = data.draw(odd)
    try:
        nft_read(json.dumps(ruleset))
    except HostError as error:
        assert str(error)  # noqa: PT017


def test_as_it_is_nothing_is_wrong(nft_says: str) -> None:
    assert nft_read(nft_says) == []


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"target": "agent_8002"', '"target": "gone"', "no chain gone"),
        ('"target": "agent_8002"', '"target": "forward"', "chains lead back"),
        ('"policy": "drop"', '"policy": "dro"', "a policy dro"),
        ('"nftables"', '"iptables"', "cannot be understood"),
        ("{", "", "cannot be understood"),
    ],
)
def test_odd_rules_are_no_verdict(nft_says: str, before: str, after: str, words: str) -> None:
    assert before in nft_says
    with pytest.raises(HostError, match=words):
        nft_read(nft_says.replace(before, after, 1 if before == "{" else -1))
