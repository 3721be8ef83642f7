"""What the hosts suite makes of gateways and of the hosts behind them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from tests.lab.sabotage import FLEET
from tests.lab.sabotage.parts import RELOAD
from tests.unit.fleets import both, fleet
from tests.unit.here import Here
from tests.unit.real_gateway import RealInner
from tests.unit.real_haproxy import RealBalancer
from tests.unit.real_nginx import LUA_LIBRARIES, program
from tests.unit.samples import QWEN, settings
from vllm_hosts.errors import HostError
from vllm_hosts.host.paths import EDGE_FOLDER
from vllm_hosts.keys import ClientKey, HostKeys
from vllm_hosts.keys.pki import LocalCa, Role, utc_now
from vllm_hosts.roles.nginx.plan import NginxVersion
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import inner_name
from vllm_hosts.suite import balancer_sockets, gateway_callers, mirror_callers, test_gateways
from vllm_hosts.suite.balancer_sockets import open_to_others
from vllm_hosts.suite.conftest import Verified
from vllm_hosts.suite.gateway_callers import callers
from vllm_hosts.suite.secret_search import kept
from vllm_hosts.suite.test_firewall import exposed_to
from vllm_hosts.verify.promises import BrokenError, promises

REFUSED = {400, 403}


def behind(**values: Any) -> HostSettings:
    return fleet(**{"agents": [QWEN]} | values)["gpu1"]


def gateway() -> HostSettings:
    return fleet()["gw1"]


@pytest.mark.parametrize(
    ("promise", "alone", "on_gateway", "behind_one"),
    [
        ("DOCKER-01", True, False, True),
        ("AGENT-12", True, False, True),
        ("EDGE-04", True, True, True),
        ("NET-03", True, True, True),
        ("GW-01", False, False, True),
        ("GW-03", False, True, False),
        ("GW-04", False, True, True),
    ],
)
def test_of_whom_a_promise_is(
    promise: str, alone: bool, on_gateway: bool, behind_one: bool
) -> None:
    found = promises()[promise]
    for host, promised in ((settings(), alone), (gateway(), on_gateway), (behind(), behind_one)):
        assert (found.exempt(host) is None) == promised, host.name


def test_a_gateway_is_promised_all_but_what_is_about_agents() -> None:
    groups = ("EDGE", "TLS", "KEY", "LOG", "SSH", "OWN")
    for name, promise in promises().items():
        if name.partition("-")[0] in groups:
            assert promise.exempt(gateway()) is None, name
        if name.partition("-")[0] in ("DOCKER", "GPU", "AGENT", "MODEL"):
            assert promise.exempt(gateway()) == "a gateway runs no agents", name


def test_only_gateways_may_see_their_port() -> None:
    assert exposed_to(behind(), "192.0.2.2") == {8443}
    assert exposed_to(behind(), "192.0.2.3") == set()
    assert exposed_to(settings(), "192.0.2.2") == set()


KEYS = HostKeys(
    internal=SecretStr("INTERNAL-KEY"),
    clients=(ClientKey("controller", SecretStr("KEY-C")),),
    hf_token=None,
)


class Sabotaged(RealInner):
    """A host behind gateways whose configuration somebody has changed, as a row does in the lab."""

    edit = ""

    def _write(self, version: NginxVersion, more: str = "") -> None:
        super()._write(version, more)
        if self.edit:
            done = self.edit.partition(f" && {RELOAD}")[0].replace(
                EDGE_FOLDER, f"{self.folder}/edge"
            )
            subprocess.run(["/bin/sh", "-ec", done], check=True)


class _Authority:
    def __init__(self, ca: LocalCa) -> None:
        self.ca = ca

    def found(self) -> LocalCa:
        return self.ca


def tried(folder: Path, monkeypatch: pytest.MonkeyPatch, edit: str = "") -> dict[str, int]:
    """What callers get that are no gateway, at a real nginx."""
    (folder / "programs").mkdir()
    (folder / "host").mkdir()
    here: Any = Here(folder / "programs")
    made = Sabotaged(folder / "host", behind(), KEYS)
    made.edit = edit
    for name, file in (
        ("INNER_CERTIFICATE", "gateway/inner.pem"),
        ("INNER_KEY", "gateway/inner.key"),
        ("TLS_CERTIFICATE", "tls/certificate.pem"),
        ("TLS_KEY", "tls/key.pem"),
    ):
        monkeypatch.setattr(gateway_callers, name, str(folder / "host" / file))
    authority: Any = _Authority(made.ca)
    with made:
        # A gateway is answered, so that a refusal says something.
        assert made.through("/v1/models").status == 200
        return callers(here, made.settings, authority)


def test_callers_that_are_no_gateway_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tried(tmp_path, monkeypatch)
    assert len(found) == 6
    assert set(found.values()) <= REFUSED, found
    assert list(Path("/run").glob("vllm-hosts-verify.*")) == []


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("gateways-without-a-certificate", "a caller without a certificate"),
        ("gateways-without-a-certificate", "a certificate that nobody signed"),
        ("gateway-of-any-name", "a gateway that this inventory does not have"),
    ],
)
def test_a_caller_that_is_answered_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, who: str
) -> None:
    [row] = [row for row in FLEET if row.name == name]
    assert tried(tmp_path, monkeypatch, row.do)[who] not in REFUSED


def test_a_port_where_nobody_listens_proves_nothing(tmp_path: Path) -> None:
    here: Any = Here(tmp_path)
    authority: Any = _Authority(LocalCa.create("test", utc_now()))
    host = behind(gateway={"port": 1})
    with pytest.raises(HostError, match="nobody answers on port 1;"):
        callers(here, host, authority)


@pytest.mark.parametrize("of", [gateway_callers, mirror_callers])
def test_callers_that_cannot_be_made_up_leave_no_key(
    tmp_path: Path, of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: Any = Here(tmp_path)
    before = set(Path("/run").glob("vllm-hosts-verify.*"))
    # There is no CA, once the key is made; then openssl does not make its request.
    nobody: Any = SimpleNamespace(found=lambda: None)
    host = behind(mirror={"port": 1}) if of is mirror_callers else behind(gateway={"port": 1})
    for words in ("the store has no CA", "exit code"):
        with pytest.raises(HostError, match=words):
            of.callers(here, host, nobody)
        assert set(Path("/run").glob("vllm-hosts-verify.*")) == before
        here.program("openssl", '[ "$2" = -x509 ]')


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[RealBalancer]:
    with RealBalancer(tmp_path, settings(), count=1) as made:
        yield made


def judged(balancer: RealBalancer) -> list[str]:
    """Who opens the sockets; nginx's user is nobody there, so that another one is everybody."""
    # A folder that others can pass through, which those of tests are not.
    here: Any = Here(balancer.run)
    here.program("socat", f'LD_LIBRARY_PATH={LUA_LIBRARIES} exec {program("socat")} "$@"')
    return open_to_others(here, str(balancer.run), ["qwen"], "65534:65534")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to be other users")
def test_who_opens_haproxy_s_sockets(
    balancer: RealBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balancer_sockets, "_NOBODY", "12345:12345")
    run = balancer.run
    run.chmod(0o711)
    assert judged(balancer) == []
    (run / "in.qwen.sock").chmod(0o666)
    assert judged(balancer) == [f"any user of the host can open {run}/in.qwen.sock"]
    (run / "in.qwen.sock").chmod(0o600)
    os.chown(run / "admin.sock", 65534, 0)
    assert judged(balancer) == [f"nginx's user can open {run}/admin.sock"]
    os.chown(run / "admin.sock", 0, 0)
    os.chown(run / "in.qwen.sock", 0, 0)
    assert judged(balancer) == [f"nginx's user cannot open {run}/in.qwen.sock"]
    os.chown(run / "in.qwen.sock", 65534, 0)
    # As one that was restarted leaves it, which is gone before long.
    (run / "master.17.sock").hardlink_to(run / "master.sock")
    assert judged(balancer) == []
    (run / "master.sock").chmod(0o666)
    names = ("master.17.sock", "master.sock")
    assert judged(balancer) == [f"any user of the host can open {run}/{name}" for name in names]
    (run / "master.sock").chmod(0o600)
    (run / "in.qwen.sock").rename(run / "other.sock")
    with pytest.raises(BrokenError, match=r"^in\.qwen\.sock: missing in "):
        judged(balancer)


class Inside:
    """The files between gateways and hosts, as deploys leave them, on this machine."""

    def __init__(self, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = fleet()[name]
        self.folder = folder / "gateway"
        self.folder.mkdir(mode=0o755)
        self.here: Any = Here(folder)
        self.ca = LocalCa.create("test", utc_now())
        monkeypatch.setattr(test_gateways, "GATEWAY_FOLDER", str(self.folder))
        for constant, file in (
            ("GATEWAY_CA", "ca.pem"),
            ("GATEWAY_CLIENT", "client.pem"),
            ("INNER_CERTIFICATE", "inner.pem"),
            ("INNER_KEY", "inner.key"),
            ("TLS_CERTIFICATE", "public.pem"),
        ):
            monkeypatch.setattr(test_gateways, constant, str(self.folder / file))
        self.write("ca.pem", self.ca.certificate_pem)
        self.write("public.pem", self.ca.issue(["192.0.2.11"], 20, utc_now()).certificate_pem)
        self.shows()

    @property
    def names(self) -> list[str]:
        if self.settings.is_gateway:
            return [self.settings.name]
        return [inner_name(self.settings.name, agent.name) for agent in self.settings.agents]

    def shows(
        self, names: Sequence[str] = (), role: Role | None = None, ca: LocalCa | None = None
    ) -> None:
        usual: Role = "client" if self.settings.is_gateway else "server"
        issued = (ca or self.ca).issue(list(names or self.names), 20, utc_now(), role or usual)
        key = issued.key_pem.get_secret_value()
        if self.settings.is_gateway:
            self.write("client.pem", issued.certificate_pem + key, 0o600)
        else:
            self.write("inner.pem", issued.certificate_pem)
            self.write("inner.key", key, 0o600)

    def write(self, name: str, content: bytes, mode: int = 0o644) -> None:
        (self.folder / name).write_bytes(content)
        (self.folder / name).chmod(mode)

    def judged(self) -> str:
        trusted = SimpleNamespace(trusted=lambda: self.ca.certificate_pem)
        verified: Any = SimpleNamespace(
            project=SimpleNamespace(store=SimpleNamespace(authority=trusted))
        )
        try:
            test_gateways.test_certificates_inside_are_good_for_one_side_only(
                self.here, self.settings, verified
            )
        except AssertionError as error:
            return str(error)
        return ""


@pytest.mark.skipif(os.geteuid() != 0, reason="files are to be root's")
@pytest.mark.parametrize("name", ["gw1", "gpu1"])
def test_certificates_as_deploys_leave_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    inside = Inside(tmp_path, name, monkeypatch)
    assert inside.judged() == ""
    key = "client.pem" if name == "gw1" else "inner.key"
    (inside.folder / key).chmod(0o644)
    assert f"{key} is regular file 644 0:0" in inside.judged()
    (inside.folder / key).chmod(0o600)
    inside.folder.chmod(0o777)
    assert "is 777 0:0" in inside.judged()
    inside.folder.chmod(0o755)
    inside.shows(role="server" if name == "gw1" else "client")
    assert "is good for more than one side, or for none" in inside.judged()
    inside.shows(names=["somebody-else"])
    assert "is for" in inside.judged()
    other = LocalCa.create("other", utc_now())
    inside.shows(ca=other)
    assert "is not signed by the inventory's CA" in inside.judged()
    inside.shows()
    inside.write("ca.pem", inside.ca.certificate_pem + other.certificate_pem)
    assert "trusts another CA than the inventory's" in inside.judged()


@pytest.mark.skipif(os.geteuid() != 0, reason="files are to be root's")
def test_certificates_of_a_machine_that_is_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = Inside(tmp_path, "gw1", monkeypatch)
    machine = both()["one"]
    for inside.settings in (machine.edge_side, machine.model_copy(update={"front": None})):
        inside.shows()
    inside.settings = machine
    assert inside.judged() == ""
    (inside.folder / "inner.key").chmod(0o644)
    assert "inner.key is regular file 644 0:0" in inside.judged()
    (inside.folder / "inner.key").chmod(0o600)
    # One that is good for either would let a host act as a gateway.
    inside.write("inner.pem", (inside.folder / "client.pem").read_bytes())
    assert "inner.pem is good for more than one side, or for none" in inside.judged()


def test_which_agents_of_a_machine_that_is_both_are_looked_at() -> None:
    machines = both()
    project: Any = SimpleNamespace(settings=machines)
    verified = Verified(project, project)
    assert verified.agents == [("one", "qwen"), ("one", "coder"), ("two", "qwen")]
    assert verified.at_edges == [(name, of) for name in machines for of in ("qwen", "coder")]
    assert verified.with_gpu == [("one", "qwen"), ("one", "coder"), ("two", "qwen")]


def test_secrets_of_a_machine_that_is_both() -> None:
    def files(host: HostSettings) -> list[str]:
        return [one.file.rpartition("/")[2] for one in kept(host)]

    assert files(both()["one"]) == ["clients.map", ".env"]
    assert (files(gateway()), files(behind())) == (["clients.map"], [".env"])
