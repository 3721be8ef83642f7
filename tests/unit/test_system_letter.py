"""What kind of machine a host is, to the letter: our own script with a host's programs, and what is
made of its answer."""

from __future__ import annotations

import base64
import json
import os
import time
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from tests.unit.here import Here
from tests.unit.model_files import POINTER, safetensors
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.system import HostMemory, SystemState
from vllm_hosts.host.system import ModelFolder, NetworkRoute, System
from vllm_hosts.hub.weights import HEADER_SIZE

READER = f"{os.getuid()}:{os.getgid()}"
INDEX = "model.safetensors.index.json"
CARD = "0, NVIDIA H200, GPU-1, 143771, 590.48.01, 9.0, Disabled, Enabled"


class Machine:
    """This machine as a host, with programs that answer from files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.here = Here(folder / "bin")
        for name in ("docker", "ss", "ip", "nvidia-smi"):
            self.here.program(name, f'cd {folder}; echo "{name} $*" >>asked; . ./{name}.sh')
            self.write(f"{name}.sh", "")
        self.write("nvidia-smi.sh", f"echo '{CARD}'")

    def write(self, name: str, text: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    def says(
        self,
        *folders: str,
        models: tuple[str, ...] = (),
        image: str = "vllm:v1",
        moved: tuple[str, str] = ("", ""),
    ) -> System:
        """What is made of the answer; one file of /proc may be another one."""
        script = SystemState().command(
            [f"{self.folder}/{one}" for one in folders],
            image,
            READER,
            [f"{self.folder}/{one}" for one in models],
        )
        if moved[0]:
            script = script.replace(f"/proc/{moved[0]}", f"{self.folder}/{moved[1]}")
        done = self.here.run(script)
        assert done.rc == 0, done.stderr
        return SystemState().process(done.stdout.splitlines())

    def model(self) -> ModelFolder:
        [found] = self.says(models=("m",)).models.values()
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class TestTheHost:
    def test_with_nothing_on_it(self, machine: Machine) -> None:
        found = machine.says()
        assert (found.user, found.has_image) == (str(os.getuid()), False)
        assert found.init == Path("/proc/1/comm").read_text().rstrip("\n")
        assert (found.free, found.present, found.models) == ({}, frozenset(), {})
        assert (found.listeners, found.containers, found.routes) == ((), frozenset(), ())
        assert [card.name for card in found.gpus] == ["NVIDIA H200"]
        assert abs(found.clock) < 5
        assert "ip -o -4 route show" in machine.asked
        assert "ss -Hltunpe" in machine.asked

    @pytest.mark.parametrize(("said", "there"), [("present", True), ("gone", False), ("", False)])
    def test_its_image(self, machine: Machine, said: str, there: bool) -> None:
        machine.write("docker.sh", f'[ "$1 $2" != "image inspect" ] || echo {said}')
        assert machine.says(image="r.example.com/it's:v1").has_image == there
        assert "docker image inspect --format present r.example.com/it's:v1" in machine.asked

    def test_its_clock(self, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
        now = time.time()
        machine.here.program("date", f"[ $1 = +%s ] && echo {int(now) + 100}")
        monkeypatch.setattr(time, "time", lambda: int(now) + 40.0)
        assert machine.says().clock == 60.0

    @pytest.mark.parametrize("there", [True, False])
    def test_whether_its_kernel_speaks_ipv6(self, machine: Machine, there: bool) -> None:
        if there:
            machine.write("six", "")
        assert machine.says(moved=("net/if_inet6", "six")).ipv6 == there

    def test_its_init(self, machine: Machine) -> None:
        machine.write("init", "  a\\b c \n")
        assert machine.says(moved=("1/comm", "init")).init == "  a\\b c "


class TestRoom:
    DF = """
    [ "$1 $2" = "--output=avail,file -B1" ] || exit 1; shift 2
    echo "   Avail File"
    n=100
    for at; do
        n=$((n + 1))
        case $at in *unseen*) echo "df: $at" >&2 ;; *) echo "   $n $at" ;; esac
    done
    """

    def test_of_folders_and_of_those_above_where_there_are_none(self, machine: Machine) -> None:
        machine.here.program("df", f"{self.DF}\necho df $* >{machine.folder}/given")
        for name in ("a", "b/c"):
            (machine.folder / name).mkdir(parents=True)
        found = machine.says("a", "b/none/deeper", "b/c")
        at = str(machine.folder)
        assert found.free == {f"{at}/a": 101, f"{at}/b/none/deeper": 102, f"{at}/b/c": 103}
        assert found.present == {f"{at}/a", f"{at}/b/c"}
        assert (machine.folder / "given").read_text() == f"df {at}/a {at}/b {at}/b/c\n"

    def test_what_df_leaves_out_takes_nobody_else_s_place(self, machine: Machine) -> None:
        machine.here.program("df", self.DF)
        for name in ("unseen", "a"):
            (machine.folder / name).mkdir()
        with pytest.raises(HostError, match="^the system, as root .*, could not be understood"):
            machine.says("unseen", "a")
        script = SystemState().command(
            [f"{machine.folder}/{x}" for x in ("unseen", "a")], "v", READER
        )
        lines = machine.here.run(script).stdout.splitlines()
        at = lines.index(f"== free {machine.folder}/unseen")
        assert lines[at + 1 : at + 5] == [
            "present",
            f"== free {machine.folder}/a",
            "present",
            "102",
        ]

    def test_this_machine_s_own_df(self, machine: Machine) -> None:
        [free] = machine.says("none").free.values()
        assert free > 1 << 20


class TestContainers:
    FORMAT = (
        "{{.Names}}|{{.Status}}|{{.Ports}}|"
        '{{json (.Label "com.docker.compose.project.working_dir")}}'
    )

    def test_who_has_which_ports(self, machine: Machine) -> None:
        lines = (
            'one|Up 3 days (healthy)|127.0.0.1:8001->8000/tcp, 9000/tcp|"/opt/vllm"',
            'two|Restarting (1) 2 seconds ago|0.0.0.0:8002->8000/tcp|"/opt/vllm"',
            'old|Exited (0) 2 days ago|0.0.0.0:8003->8000/tcp|"/opt/vllm"',
            'other|Up 1 second|0.0.0.0:9000-9001->1/tcp|"/srv/a|b"',
            'new|Created||""',
        )
        text = "\n".join(lines)
        machine.write("docker.sh", f"[ $1 != ps ] || cat <<'E'\n{text}\nE")
        found = machine.says()
        assert f"docker ps -a --format {self.FORMAT}" in machine.asked
        assert found.containers == {"one", "two", "old", "other", "new"}
        assert found.container_ports == {
            8001: "one", 8002: "two", 8003: "old", 9000: "other", 9001: "other",
        }  # fmt: skip
        assert found.project_ports == {"/opt/vllm": {8001, 8002}, "/srv/a|b": {9000, 9001}}

    def test_a_line_that_is_cut_short(self) -> None:
        found = SystemState().process([*answer(containers=["one"]), END])
        assert found.containers == {"one"}
        assert dict(found.project_ports) == {}

    def test_a_host_without_docker(self, machine: Machine) -> None:
        script = SystemState().command([], "v", READER).replace("-v docker", "-v no-docker")
        done = machine.here.run(script)
        assert SystemState().process(done.stdout.splitlines()).containers == frozenset()
        assert not [one for one in machine.asked if one.startswith("docker ps")]


def answer(**changes: list[str]) -> list[str]:
    """What a host answers, with other parts."""
    parts = {
        "user": ["0"],
        "init": ["systemd"],
        "image": [],
        "listeners": [],
        "containers": [],
        "routes": [],
        "gpus": [CARD, "exit 0"],
    } | changes
    return [line for name, lines in parts.items() for line in (f"== {name}", *lines)]


class TestAnswers:
    def found(self, **changes: list[str]) -> System:
        return SystemState().process([*answer(**changes), END])

    def test_what_older_ones_do_not_say(self) -> None:
        found = self.found()
        assert (found.clock, found.ipv6, found.programs) == (0.0, True, ())
        assert self.found(ipv6=[]).ipv6 is False

    def test_tcp_alone_listens(self) -> None:
        lines = [
            "udp UNCONN 0 0 0.0.0.0:53 0.0.0.0:* ino:9 sk:1",
            "tcp LISTEN 0 0 0.0.0.0:22 0.0.0.0:* uid:7 ino:9 sk:1",
        ]
        found = self.found(listeners=lines, users=["ada:7"]).listeners
        assert [(one.port, one.user) for one in found] == [(22, "ada")]

    def test_routes(self) -> None:
        lines = [
            "default via 192.0.2.1 dev eth0",
            "unreachable default metric 4278198272",
            "192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.11",
            "unicast 198.51.100.0/24 via 192.0.2.2 dev eth1",
            "blackhole 203.0.113.0/24",
            "10.0.0.7 via 192.0.2.3 dev wg0",
        ]
        assert self.found(routes=lines).routes == (
            NetworkRoute(IPv4Network("192.0.2.0/24"), "eth0"),
            NetworkRoute(IPv4Network("198.51.100.0/24"), "eth1"),
            NetworkRoute(IPv4Network("203.0.113.0/24"), "blackhole"),
            NetworkRoute(IPv4Network("10.0.0.7/32"), "wg0"),
        )

    def test_models(self) -> None:
        config = base64.b64encode(b'{"a": 1}').decode()
        models = {
            "/a": ["file 1208 200 700 x", "file 108 100 0 y"],
            "/b": ["total 77", "file 1208 200 700 x"],
            "/c": [],
            "/d": ["pointer x", "missing y"],
            "/e": [f"missing {'y' * 300}"],
            "/f": ["file 8 - 0 x", "total 7"],
            "/g": ["file 0 "],
            "/h": [f"pointer {'y' * 300}"],
            "/i": ["file 208 - 0 "],
        }
        lines = {f"model {name}": [f"config {config}", *said] for name, said in models.items()}
        found = self.found(**lines).models
        header = (
            "is not a safetensors file, or was cut short: its header does not fit in it; fetch the"
            " model again"
        )
        pointer = (
            "is a git-lfs pointer, not the file itself; run `git lfs pull` in that folder, or fetch"
            " the model again"
        )
        assert {one.config for one in found.values()} == {b'{"a": 1}'}
        assert {name: (one.weight_bytes, one.damage) for name, one in found.items()} == {
            "/a": (1000, None),
            "/b": (77, None),
            "/c": (None, None),
            "/d": (None, f"holds no weights: x {pointer}"),
            "/e": (
                None,
                f"does not hold all weights: its index names {'y' * 200} ..., which does not exist;"
                " fetch the model again",
            ),
            "/f": (7, f"holds no weights: x {header}"),
            "/g": (None, "holds no weights: a file is empty; fetch the model again"),
            "/h": (None, f"holds no weights: {'y' * 200} ... {pointer}"),
            "/i": (None, f"holds no weights: a file {header}"),
        }


class TestModels:
    """The script that looks into folders with models."""

    def file(self, machine: Machine, name: str, content: bytes) -> None:
        machine.write(f"m/{name}", content)
        if not (machine.folder / "m/config.json").exists():
            machine.write("m/config.json", '{"a": 1}')

    def test_no_model(self, machine: Machine) -> None:
        machine.write("m/model.safetensors", safetensors(7))
        assert machine.says(models=("m", "none")).models == {}

    def test_files_with_weights(self, machine: Machine) -> None:
        for name, size in (("a", 1000), ("b b", 10), ("consolidated", 5), ("consolidated.01", 5)):
            self.file(machine, f"{name}.safetensors", safetensors(size))
        self.file(machine, "tokenizer.json", b"{}")
        (machine.folder / "m/dir.safetensors").mkdir()
        assert machine.model() == ModelFolder(b'{"a": 1}', 1010)

    def test_the_last_tensor_decides(self, machine: Machine) -> None:
        tensors = {"b": {"data_offsets": [9, 1000]}, "a": {"data_offsets": [0, 9]}}
        header = json.dumps(tensors).encode()
        whole = len(header).to_bytes(8, "little") + header + bytes(1000)
        self.file(machine, "x.safetensors", whole)
        assert machine.model().weight_bytes == 1000
        self.file(machine, "x.safetensors", whole[:-1])
        said = (
            f"was cut short: it has {len(whole) - 1} of {len(whole)} bytes; fetch the model again"
        )
        assert machine.model().damage == f"holds no weights: x.safetensors {said}"

    @pytest.mark.parametrize("length", [HEADER_SIZE + 1, 10**15])
    def test_a_header_that_is_too_long_is_not_read(self, machine: Machine, length: int) -> None:
        whole = safetensors(100)
        self.file(machine, "x.safetensors", length.to_bytes(8, "little") + whole[8:])
        machine.here.program("tail", f"touch {machine.folder}/read")
        assert "its header does not fit in it" in str(machine.model().damage)
        assert not (machine.folder / "read").exists()

    def test_what_the_index_names(self, machine: Machine) -> None:
        self.file(machine, "a.safetensors", safetensors(1000))
        self.file(machine, "aXsafetensors.safetensors", safetensors(5))
        self.file(machine, "fp16.safetensors", safetensors(500))
        index = {"weight_map": {"x": "a.safetensors", "y": "a.safetensors"}}
        self.file(machine, INDEX, json.dumps(index).encode())
        assert machine.model() == ModelFolder(b'{"a": 1}', 1000)
        index["weight_map"] |= {f"z{n}": f"{n}.safetensors" for n in range(5)}
        self.file(machine, INDEX, json.dumps(index).encode())
        assert str(machine.model().damage).startswith(
            "does not hold all weights: its index names 0.safetensors, which does not exist"
        )
        done = machine.here.run(SystemState().command([], "v", READER, [f"{machine.folder}/m"]))
        assert [line for line in done.stdout.splitlines() if line.startswith("missing")] == [
            f"missing {n}.safetensors" for n in range(3)
        ]

    @pytest.mark.parametrize(
        ("size", "found"),
        [("1990", 1990), ('"1990"', 1990), ("1.99e3", 1990), ("null", 1000), ("-5", 1000)],
    )
    def test_the_size_that_an_index_says(self, machine: Machine, size: str, found: int) -> None:
        self.file(machine, "a.safetensors", safetensors(1000))
        text = f'{{"metadata": {{"total_size" :  {size}}}, "m": {{"x": "a.safetensors"}}}}'
        self.file(machine, INDEX, f'{text}\n{{"total_size": 7}}\n'.encode())
        assert machine.model().weight_bytes == (found if found != 1000 else 7)
        self.file(machine, INDEX, text.encode())
        assert machine.model().weight_bytes == found

    @pytest.mark.parametrize("name", ["a.safetensors", INDEX])
    def test_pointers(self, machine: Machine, name: str) -> None:
        self.file(machine, name, POINTER)
        assert str(machine.model().damage).startswith(f"holds no weights: {name} is a git-lfs poin")

    def test_zeros_are_no_pointer_and_no_noise(self, machine: Machine) -> None:
        self.file(machine, "a.safetensors", bytes(100))
        done = machine.here.run(SystemState().command([], "v", READER, [f"{machine.folder}/m"]))
        assert (done.rc, done.stderr) == (0, "")
        assert "file 100 0 0 a.safetensors" in done.stdout.splitlines()

    @pytest.mark.parametrize("size", [0, 5, 8])
    def test_what_is_too_short_for_a_header(self, machine: Machine, size: int) -> None:
        self.file(machine, "a.safetensors", bytes(size))
        done = machine.here.run(SystemState().command([], "v", READER, [f"{machine.folder}/m"]))
        [line] = [line for line in done.stdout.splitlines() if line.startswith("file")]
        assert line.startswith(f"file {size} ")
        assert str(machine.model().damage).startswith("holds no weights: a.safetensors is")

    @pytest.mark.parametrize("main", [True, False])
    def test_a_download_of_the_hub_s(self, machine: Machine, main: bool) -> None:
        for revision, size in (("old", 5), ("new", 7)):
            machine.write(f"m/snapshots/{revision}/config.json", revision)
            machine.write(f"m/snapshots/{revision}/a.safetensors", safetensors(size))
        for number, revision in enumerate(("old", "new")):
            os.utime(machine.folder / f"m/snapshots/{revision}", (number, number))
        if main:
            machine.write("m/refs/main", "old")
        assert machine.model() == (ModelFolder(b"old", 5) if main else ModelFolder(b"new", 7))

    def test_a_configuration_without_end(self, machine: Machine) -> None:
        self.file(machine, "config.json", b"x" * 1_000_001)
        assert len(machine.model().config) == 1_000_000

    def test_a_look_that_hangs_is_no_host_without_models(self, machine: Machine) -> None:
        machine.here.program(
            "timeout", 'for last; do :; done; [ "$last" != look ] || exit 124; shift 3; "$@"'
        )
        done = machine.here.run(SystemState().command([], "v", READER))
        assert done.rc == 1
        assert "looking as user" in done.stderr


class TestMemory:
    def test_this_machine_s(self, machine: Machine) -> None:
        done = machine.here.run(HostMemory().command())
        lines = Path("/proc/meminfo").read_text().splitlines()
        [total] = [line for line in lines if line.startswith("MemTotal:")]
        assert HostMemory().process(done.stdout.splitlines()) == int(total.split()[1]) * 1024

    @pytest.mark.parametrize("said", [[], ["7", "8"], ["many"]])
    def test_an_odd_answer_names_what_it_is_about(self, said: list[Any]) -> None:
        with pytest.raises(HostError, match="^the host's memory could not be understood"):
            HostMemory().process(["== memory", *said, END])
