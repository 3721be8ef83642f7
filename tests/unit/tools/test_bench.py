"""What measures runs: the relay, tables and plots, and a fleet of recorded hosts."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from bench import cases, compare, floors, scale
from bench.far import Far, kept, known
from bench.figures import Measured, plot, table
from bench.programs import (
    CHANGED,
    PLAY_CHANGED,
    PLAY_UNCHANGED,
    STOCK_CHANGED,
    STOCK_UNCHANGED,
    UNCHANGED,
    Once,
)
from bench.site import made
from bench.tables import written
from lab import layout
from tests.unit.projects import ROOT
from vllm_hosts.facts import asked

#: In a process of its own: here gevent has replaced what asyncio needs.
RELAYED = """
import json, socket, sys, time
from threading import Thread
from bench.relay import Relay, Target

def answer(server):
    while True:
        one, _ = server.accept()
        def serve(one=one):
            while data := one.recv(65536):
                one.sendall(data)
            one.sendall(b"bye")
            one.close()
        Thread(target=serve, daemon=True).start()

server = socket.create_server(("127.0.0.1", 0))
Thread(target=answer, args=(server,), daemon=True).start()
relay, took = Relay(), {}
with relay.running(Target("127.0.0.1", server.getsockname()[1]), Target("127.0.0.1", 1)) as ports:
    for delay in (0.0, 0.2):
        relay.round_trip = delay
        with socket.create_connection(("127.0.0.1", ports[0])) as one:
            times, begun = [], time.monotonic()
            for _ in range(2):
                one.sendall(b"x")
                assert one.recv(9) == b"x"
                times.append(time.monotonic() - begun)
            # On a long line, what is sent at once arrives at once.
            begun = time.monotonic()
            for _ in range(20):
                one.sendall(b"y" * 1000)
                time.sleep(0.001)
            got = b""
            while len(got) < 20000:
                got += one.recv(65536)
            times.append(time.monotonic() - begun)
            one.shutdown(socket.SHUT_WR)
            assert one.recv(9) == b"bye" and one.recv(9) == b""
        took[delay] = times
    relay.round_trip = 0.0
    with socket.create_connection(("127.0.0.1", ports[1])) as one:
        assert one.recv(9) == b""
    # What is still open ends with the relay.
    left = socket.create_connection(("127.0.0.1", ports[0]))
    left.sendall(b"x")
    left.recv(9)
print(json.dumps([took, relay.connections, relay.carried]))
"""


def test_the_relay_makes_a_host_far_away() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RELAYED], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    took, connections, carried = json.loads(done.stdout)
    near, far = took["0.0"], took["0.2"]
    assert connections == 4
    assert carried == 2 * 2 * (2 + 20000) + 2 * len("bye") + 2
    # The first answer takes the handshake's round trip as well.
    assert far[0] - near[0] > 0.35
    assert far[1] - far[0] > 0.19
    assert 0.19 < far[2] < 10 * 0.2


def test_ratios_are_of_pairs() -> None:
    # Both were slow in the second pair, when the machine was.
    ours, theirs = Measured((1.0, 5.0, 1.0)), Measured((2.0, 10.0, 4.0))
    assert theirs.over(ours) == 2.0
    assert ours.middle == 1.0
    assert str(theirs) == "4.00 (2.00 to 10.00)"
    assert str(Measured((1.0,))) == "1.00"
    with pytest.raises(ValueError, match="shorter"):
        ours.over(Measured((1.0,)))


def test_a_table() -> None:
    assert table(["a", "b"], [[1, Measured((2.0,))]]) == "| a | b |\n| --- | --- |\n| 1 | 2.00 |\n"


def test_a_plot_is_svg_with_all_that_was_measured() -> None:
    drawn = plot(
        "Runs & ways", "s", {"0 ms": {"ours": Measured((1.0, 3.0)), "<x>": Measured((4.0,))}}
    )
    root = ElementTree.fromstring(drawn)
    texts = [one.text for one in root.iter() if one.tag.endswith("text")]
    assert texts == ["Runs & ways", "0 ms", "ours", "2.00 s", "<x>", "4.00 s"]
    widths = [float(one.get("width", 0)) for one in root.iter() if one.tag.endswith("rect")][1:]
    assert widths[1] == 2 * widths[0]


def test_a_fleet_of_recorded_hosts_has_nothing_to_change(tmp_path: Path) -> None:
    """And pyinfra's own command sees that in a few executions of each host."""
    begun = time.monotonic()
    found = scale.run(made(tmp_path, 3), 0.0)
    kinds = {kind: times / 3 for kind, times in found["count"].items()}
    assert {kind: kinds[kind] for kind in ("connect", "lock", "looks ahead", "fact")} == {
        "connect": 1,
        "lock": 1,
        "looks ahead": 1,
        "fact": 2,
    }
    assert kinds["edge"] == 1
    assert 0 < found["cpu"] < time.monotonic() - begun


def test_ansible_keeps_what_the_deploy_has_written(tmp_path: Path) -> None:
    files = {
        "opt/vllm/compose.yaml": b"""services:
  one: {image: "vllm:1", ports: ["127.0.0.1:8001:8000"]}
  two: {image: "vllm:1", ports: ["[::]:8002:8000"]}
""",
        "opt/vllm/.env": b"SECRET=1\n",
        "var/lib/vllm-hosts/manifest": b"hold nginx\npackage nginx\nsource /x\nmodel /srv/m m\n",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("etc/docker", "var/lib/vllm"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode, folder.uname = tarfile.DIRTYPE, 0o755, "root"
            tar.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uname = len(content), 0o600, "root"
            tar.addfile(member, io.BytesIO(content))
    found = kept(buffer.getvalue(), tmp_path)
    assert [one["path"] for one in found["managed"]] == ["/opt/vllm/compose.yaml", "/opt/vllm/.env"]
    assert found["managed"][1] | {"group": ""} == {
        "path": "/opt/vllm/.env",
        "mode": "0600",
        "owner": "root",
        "group": "",
    }
    # Those that packages bring along are not named.
    assert [(one["path"], one["mode"]) for one in found["folders"]] == [("/var/lib/vllm", "0755")]
    assert (tmp_path / "opt/vllm/.env").read_bytes() == b"SECRET=1\n"
    assert (found["packages"], found["held"], found["image"]) == (["nginx"], ["nginx"], "vllm:1")
    assert found["agents"] == [{"name": "one", "port": 8001}, {"name": "two", "port": 8002}]


def test_hosts_are_known_by_the_relay_s_ports() -> None:
    lines = "10.87.0.11,fd87::11 ssh-ed25519 AAAA\n10.87.0.9 ssh-ed25519 BBBB\n"
    assert known(lines, {"10.87.0.11": 2201}) == "[127.0.0.1]:2201 ssh-ed25519 AAAA\n"


class TestComparing:
    """With a shell in the place of programs."""

    def once(self, script: str) -> Any:
        """In a process of its own, since gevent waits for all processes of this one."""
        program = (
            "import json, sys; from bench import programs; from bench.relay import Relay\n"
            "words = [sys.executable, '-c', sys.argv[1]]\n"
            "counts = iter([3, 10])\n"
            "way = programs.Way('x', [words, words], {'OF_THE_WAY': '1'}, r'\\] 0 changed', 2,"
            " lambda: {'OF_THIS_RUN': '2'})\n"
            "try: print(json.dumps(vars(programs.once(way, Relay(), lambda: next(counts)))))\n"
            "except programs.UnexpectedError as error: print(json.dumps(str(error)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, script], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def test_what_a_run_needs(self) -> None:
        found = self.once(
            "import os, time; assert os.environ['OF_THE_WAY'] < os.environ['OF_THIS_RUN']\n"
            "end = time.process_time() + 0.1\n"
            "while time.process_time() < end: pass\nprint('\\x1b[36m[h] 0 changed\\x1b[0m')"
        )
        assert found["cpu"] > 0.2
        assert found["wall"] > 0.1
        assert found["memory"] > 1e6
        assert (found["connections"], found["carried"], found["executions"]) == (0, 0, 7)

    @pytest.mark.parametrize(
        "script", ["print('[h] 1 changed')", "print('[h] 0 changed'); raise SystemExit(1)"]
    )
    def test_who_changes_something_is_not_compared(self, script: str) -> None:
        assert re.search(r"x ended with \[., .\]:\n\[h\] . changed", self.once(script))


#: A summary of each program for two hosts, unchanged and changed.
SUMMARIES = [
    (
        UNCHANGED,
        CHANGED,
        "    [gpu1]      0 changed, 50 unchanged\n",
        "    [a]    32 changed, 18 unchanged\n",
    ),
    (
        PLAY_UNCHANGED,
        PLAY_CHANGED,
        "gpu1    : ok=31   changed=0    unreachable=0    failed=0    skipped=1\n",
        "gpu1    : ok=31   changed=10   unreachable=0    failed=0    skipped=1\n",
    ),
    (
        STOCK_UNCHANGED,
        STOCK_CHANGED,
        "    Grand total          120     -         -       120\n",
        "    Grand total          120     2         -       118\n",
    ),
]


@pytest.mark.parametrize(("unchanged", "changed", "nothing", "something"), SUMMARIES)
def test_what_programs_say_of_their_work(
    unchanged: str, changed: str, nothing: str, something: str
) -> None:
    for pattern, text in ((unchanged, nothing), (changed, something)):
        assert len(re.findall(pattern, text * 2)) == 2
    assert not re.search(unchanged, something)
    assert not re.search(changed, nothing)
    # A task that failed is neither.
    for text in (nothing, something):
        failed = text.replace("failed=0", "failed=1").replace("  -    ", "  1    ")
        if failed != text:
            assert not re.search(f"{unchanged}|{changed}", failed)


class TestTable:
    def run(self, wall: float) -> Once:
        return Once(wall, wall / 2, 50_000_000, 2, 30_000, 4)

    def test_ratios_and_counts(self, tmp_path: Path) -> None:
        by_name = {
            cases.EXEC: [self.run(1.0), self.run(2.0)],
            cases.OURS: [self.run(2.0), self.run(4.0)],
            # The last round was cut off.
            cases.THEIRS: [self.run(24.0)],
        }
        # Ratios are of the rounds that all have.
        text = written(cases.CASES["nothing"], {(2, 0.02): by_name}, tmp_path / "results")
        lines = [line.strip("| ").split(" | ") for line in text.splitlines()[6:]]
        assert [line[2:6] for line in lines] == [
            ["`pyinfra exec -- true`", "1.50 (1.00 to 2.00) s", "0.50", "1.00"],
            ["`deploy.py`", "3.00 (2.00 to 4.00) s", "1.00", "2.00"],
            ["`ansible-playbook`", "24.00 s", "12.00", "24.00"],
        ]
        assert lines[1][:2] == ["2", "20 ms"]
        assert lines[1][6:] == ["1.50 (1.00 to 2.00) s", "50 MB", "2", "4", "30 kB"]
        assert "gateways" not in text
        assert (tmp_path / "results/nothing.md").read_text() == text
        drawn = (tmp_path / "results/nothing.svg").read_text()
        assert "Nothing to change" in drawn
        assert "2 hosts, 20 ms" in drawn

    def test_it_says_which_hosts_are_gateways(self, tmp_path: Path) -> None:
        by_name = {cases.EXEC: [self.run(1.0)], cases.KEYS: [self.run(1.5)]}
        text = written(cases.CASES["key"], {(8, 0.02): by_name}, tmp_path)
        assert "More than 2 hosts are gateways, which run no vLLM." in text


class TestCases:
    def test_a_choice_of_them(self) -> None:
        found = [
            (case.name, count, trips)
            for case, count, trips in compare.chosen(["nothing", "fresh"], [8, 1], [20, 0, 100])
        ]
        # What a fresh host waits for is on the host: it is measured once.
        assert found == [
            ("nothing", 1, [20, 0, 100]),
            ("nothing", 8, [20, 0, 100]),
            ("fresh", 1, [0]),
        ]
        assert list(compare.chosen(["setting"], [2, 4], [0])) == []

    def test_an_unknown_one_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["compare", "--cases", "nothing,all"])
        with pytest.raises(SystemExit, match="^2$"):
            compare.main()
        said = capsys.readouterr().err
        assert "'all' is no case; there are: nothing, key, setting, fresh" in said

    def test_no_pyinfra_where_the_relay_runs(self) -> None:
        program = "import bench.compare, sys; print('gevent' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
        assert asked.FILE == cases._ASKED

    def test_more_hosts_than_have_room_for_vllm_are_gateways(self) -> None:
        assert [host.name for host in cases.machines(2)] == ["gpu1", "gpu2"]
        assert [host.name for host in cases.machines(4)] == ["gw1", "gw2", "gw3", "gw4"]

    def test_one_agent_s_setting(self) -> None:
        given = json.loads(cases.with_length(1000, capacity={"preflight": "off"})["LAB_SETTINGS"])
        agents = given["hosts"]["gpu1"]["agents"]
        assert [agent["max_model_len"] for agent in agents] == [1000, 512]
        assert given["capacity"] == {"preflight": "off"}
        compose = (ROOT / "tests/unit/golden/vllm/two-agents.yaml").read_text()
        compose = compose.replace(
            '- "--host"', '- "--max-model-len"\n      - "1024"\n      - "--host"'
        )
        found = cases.rewritten(compose, 1000)
        assert found.count('"1024"') == compose.count('"1024"') - 1
        assert cases.rewritten(found, 1024) == compose
        with pytest.raises(ValueError, match="no --max-model-len"):
            cases.rewritten("services: {}", 1)


class TestFloors:
    """Scripts that bash can read, with what a deploy has written."""

    COMPOSE = """services:
  one:
    image: "vllm:1"
    ports: ["127.0.0.1:8001:8000"]
    user: "64101:64102"
    volumes:
      - {type: bind, source: /var/lib/vllm/agents/one, target: /cache, read_only: false}
      - {type: bind, source: /srv/m, target: /m, read_only: true}
"""

    def test_of_a_fresh_host(self, tmp_path: Path) -> None:
        (tmp_path / "opt/vllm").mkdir(parents=True)
        (tmp_path / "opt/vllm/compose.yaml").write_text(self.COMPOSE)
        script = floors.fresh(tmp_path, ["nginx", "docker-ce"])
        for line in (
            "apt-get -qq install -y --no-install-recommends nginx docker-ce >/dev/null",
            "docker pull --quiet vllm:1",
            "install -d -o 64101 /var/lib/vllm/agents/one",
            # Nobody owns what agents only read.
            "[ -e /srv/m ] || mkdir -p /srv/m",
            "healthy 8001",
        ):
            assert line in script.splitlines()
        assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0

    def test_of_a_restart(self) -> None:
        """It waits until the agent answers with 200, and reads no more than the first line."""
        script = floors.restart("tiny", 0).partition("docker restart")[0]
        answers = (
            "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
            "print(server.getsockname()[1], flush=True)\n"
            "for status in ('503 no', '200 OK'):\n"
            "    one, _ = server.accept()\n    one.recv(99)\n"
            "    one.sendall(f'HTTP/1.1 {status}\\r\\n\\r\\n'.encode())\n    one.close()\n"
        )
        with subprocess.Popen([sys.executable, "-c", answers], stdout=subprocess.PIPE) as agent:
            assert agent.stdout is not None
            port = agent.stdout.readline().decode().strip()
            subprocess.run(["bash", "-c", f"{script}healthy {port}"], check=True, timeout=20)
            assert agent.wait(10) == 0

    def test_they_run_as_root_with_files_of_the_deploy(self, tmp_path: Path) -> None:
        one, two = layout.gpu_hosts(2)
        far = Far(tmp_path, {one: 2201, two: 2202})
        assert floors.sent(far, one, "true")[-1] == "bash -c true"
        *_, line = floors.sent(far, two, "echo 'a b'", "etc/apt")
        assert line.startswith(f"tar -C {tmp_path}/files/gpu2 -cf - etc/apt | ssh -F ")
        assert "sudo bash -c" in line


def test_the_playbook_keeps_each_file_once() -> None:
    """Tasks choose files by expressions, which together have to be all of them."""
    tasks = yaml.safe_load((ROOT / "bench/ansible/site.yml").read_text())[0]["tasks"]
    chosen = [task["loop"] for task in tasks if "ansible.builtin.copy" in task]
    *some, rest = chosen
    found = [re.search(r"'path', '(match|search)', '([^']*)'", one) for one in some]
    paths = ["/etc/apt/keyrings/docker.asc", "/etc/docker/daemon.json", "/opt/vllm/.env"]
    paths += [
        "/etc/vllm-hosts/firewall.nft",
        "/etc/vllm-hosts/tls/key.pem",
        "/etc/nginx/nginx.conf",
    ]
    for path in paths:
        matching = [one for one in found if one and getattr(re, one[1])(one[2], path)]
        assert len(matching) == 1, path
    left = re.findall(r"rejectattr\('path', '(match|search)', '([^']*)'\)", rest)
    assert len(left) == 2
    assert all(any(getattr(re, how)(what, path) for how, what in left) for path in paths)
    assert not any(getattr(re, how)(what, "/etc/vllm-hosts/store") for how, what in left)
