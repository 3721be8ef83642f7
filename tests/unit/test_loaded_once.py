"""Every command loads its inventory once, validates a host once, and reads the store's file once;
and what is read does not grow with the number of hosts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pyinfra.context import ctx_config, ctx_host, ctx_inventory, ctx_state
from pyinfra_cli.inventory import make_inventory

from tests.stores import made
from tests.unit import projects
from tests.unit.model_files import safetensors
from tests.unit.projects import AGENT
from vllm_hosts.cli import verify
from vllm_hosts.cli.commands_docs import every_command
from vllm_hosts.cli.main import main
from vllm_hosts.keys import KeyStore, provided
from vllm_hosts.keys.hosts import with_host
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.keys.private_files import version_of
from vllm_hosts.keys.store_content import Content, DeployedHost
from vllm_hosts.project import inventory, run
from vllm_hosts.project.layers import host_settings
from vllm_hosts.project.loaded import Project

PROD = "inventory/prod.py"
#: What is typed behind the inventory, for commands that take more than that.
_MORE = {
    "agents start": ["one"],
    "agents stop": ["--yes"],
    "hosts adopt": ["here", "--yes"],
    "hosts release": ["gone"],
    "images": ["prune", "--yes"],
    "keys add": ["alice", "--agents", "one"],
    "keys extend": ["default", "--expires", "1d"],
    "keys new-ca": ["--yes"],
    "keys recipients add": ["age1x"],
    "keys recipients remove": ["age1x"],
    "keys revoke": ["default"],
    "keys rotate": ["default"],
    "keys show": ["default", "--force"],
    "lock release": ["--yes"],
    "plan": ["--offline", "--gpu-memory", "24"],
    "top": ["--once"],
}
#: Without an inventory.
_OTHERS = {"docs", "init", "settings"}
COMMANDS = [
    name.removeprefix("vllm-hosts ")
    for name, command in every_command(main, "vllm-hosts")
    if not isinstance(command, click.Group)
]
_read_file, _make, _validated = KeyStore._read_file, make_inventory, host_settings


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[object]]:
    """What was loaded, and how often."""
    count: Counter[object] = Counter()

    def making(path: str, **how: str) -> object:
        count["inventory", Path(path).resolve()] += 1
        return _make(path, **how)

    def validating(host: object, **how: bool) -> object:
        count["settings", str(host)] += 1
        return _validated(host, **how)  # type: ignore[arg-type]

    def reading(store: KeyStore) -> Content | None:
        count["store", version_of(store.path)] += 1
        return _read_file(store)

    monkeypatch.setattr(inventory, "make_inventory", making)
    monkeypatch.setattr(inventory, "host_settings", validating)
    monkeypatch.setattr(KeyStore, "_read_file", reading)
    monkeypatch.setattr(run, "_run", None)
    yield count
    # drift leaves pyinfra where a run would.
    for context in (ctx_host, ctx_state, ctx_config, ctx_inventory):
        context.reset()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two hosts that refuse connections, and one that was taken out."""
    project = projects.Project(tmp_path)
    hosts = [
        (name, {"ssh_hostname": "127.0.0.1", "ssh_port": port})
        for name, port in (("here", 2), ("there", 3))
    ]
    project.write(PROD, f"gpu_hosts = {hosts!r}\n")
    store = KeyStore(tmp_path / PROD)
    made(store)
    store.update(lambda content: with_hosts(content, "here", "there", "gone"))
    store.local_ca()
    monkeypatch.chdir(tmp_path)
    # pyinfra keeps code by its path, which is the same in every folder that a test stands in.
    monkeypatch.setattr("pyinfra_cli.util.PYTHON_CODES", {})
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def with_hosts(content: Content, *names: str) -> Content:
    for name in names:
        content = with_host(content, name, DeployedHost())
    return content


@pytest.mark.parametrize("name", sorted({*COMMANDS} - _OTHERS))
def test_a_command_loads_everything_once(
    name: str, site: Path, counted: Counter[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(verify, "subprocess", SimpleNamespace(run=lambda *_, **__: done))
    group = name.split(" ")
    # These have the inventory before the command's own name.
    place = 1 if group[0] in ("agents", "lock", "tls") else len(group)
    words = [*group[:place], PROD, *group[place:], *_MORE.get(name, [])]
    result = CliRunner().invoke(main, words)
    # There is no gateway that agents could be drained at.
    codes = (2,) if name in ("agents drain", "agents undrain") else (0, 1, 3)
    assert result.exit_code in codes, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert {what: times for what, times in counted.items() if times > 1} == {}, result.output
    kinds = Counter(what[0] for what in counted if isinstance(what, tuple))
    assert kinds["inventory"] == 1, result.output
    assert kinds["store"] in range(1, 4), result.output
    assert kinds["settings"] in (0, 2), result.output


def test_the_table_has_every_command_that_takes_more() -> None:
    assert {*_MORE} <= {*COMMANDS}


#: Files that were opened, while somebody counts.
_opened: list[str] | None = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_hook)


class TestManyHosts:
    """By files that are opened, not by seconds: what is read once for each host is seen there."""

    def files(self, folder: Path, hosts: int, *, own: bool = False) -> Counter[str]:
        global _opened
        project = projects.Project(folder)
        agents = [AGENT | {"model": "/srv/models/m", "copy_from": "m"}]
        project.group(agents=agents, x_mine=1, ssh_user="root")
        listed = [
            (f"gpu{n}.example.com", {"edge": {"names": [f"gpu{n}.example.com"]}} if own else {})
            for n in range(hosts)
        ]
        project.write(PROD, f"gpu_hosts = {listed!r}\n")
        project.write("m/config.json", "{}")
        (folder / "m/model.safetensors").write_bytes(safetensors())
        store = KeyStore(folder / PROD)
        made(store)
        store.update(lambda content: with_hosts(content, *(name for name, _ in listed)))
        _opened = []
        try:
            loaded = Project.load(folder / PROD)
            assert len(loaded.settings) == len(loaded.keys) == hosts
            for name in loaded.hosts:
                assert loaded.claim(name).signs
            return Counter(name.removeprefix(str(folder)) for name in _opened)
        finally:
            _opened = None

    @pytest.mark.parametrize("own", [False, True], ids=["alike", "each its own"])
    def test_more_hosts_open_no_more_files(self, tmp_path: Path, own: bool) -> None:
        # What is looked up once in a process is known after the first.
        counts = []
        for name, hosts in (("first", 2), ("few", 2), ("many", 40)):
            (tmp_path / name).mkdir()
            counts.append(self.files(tmp_path / name, hosts, own=own))
        _, few, many = counts
        assert few["/inventory/.vllm-hosts/prod/keys.json"] == 1
        assert few["/m/model.safetensors"] == 1
        assert many == few

    def test_a_key_that_hosts_share_is_read_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What takes longest of all: 40 ms for one of RSA."""
        calls = Counter[bytes]()

        def loading(data: bytes, password: None) -> PrivateKeyTypes:
            calls[data] += 1
            return load_pem_private_key(data, password)

        monkeypatch.setattr(provided, "load_pem_private_key", loading)
        made = LocalCa.create("x", utc_now()).issue(["*.example.com"], 100, utc_now())
        (tmp_path / "c.pem").write_bytes(made.certificate_pem)
        (tmp_path / "k.pem").write_bytes(made.key_pem.get_secret_value())
        files = str(tmp_path / "c.pem"), str(tmp_path / "k.pem")
        for number in range(5):
            assert provided.check_files(*files, [f"gpu{number}.example.com"], utc_now()) == []
        assert [*calls.values()] == [1]
