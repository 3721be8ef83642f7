"""What `remove.py` sees on a host, to the letter: what is ours goes, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.unit.here import Here
from vllm_hosts.errors import HostError
from vllm_hosts.facts import remains
from vllm_hosts.facts.base import END
from vllm_hosts.facts.remains import HostRemains, Versions
from vllm_hosts.host.manifest import LISTS
from vllm_hosts.host.packages import Package
from vllm_hosts.host.paths import BEFORE, COPIES, DEPLOYED, IMAGES_RECORD, MANIFEST, STORE_MARK
from vllm_hosts.host.remains import DockerHolds, Inhabitant, Inside, Remains, Version

ASKED = {"directory": "/opt/vllm", "project": "vllm", "fetching": "fetch", "bridges": "vllm-"}
IMAGE = f"sha256:{'a' * 64}"
DOCKER = """
case "$1 $2" in
"info ") [ ! -e down ] ;;
"ps -aq") echo id1; [ "$3" = --no-trunc ] ;;
"inspect --format") cat containers ;;
"network ls") echo net1 ;;
"network inspect") cat networks ;;
"image ls") [ "$3 $4" = "--no-trunc --quiet" ] && printf 'b\\na\\nb\\n' ;;
"volume ls") [ "$3" = -q ] && echo data ;;
esac
"""
PACKAGES = (
    "ii |nginx|libc6 (>= 2), awk | mawk,|logrotate|httpd, www\nrc |gone||||\nhi |kept||||\n"
).replace("||||", "|,||")


class Machine:
    """This machine as a host, with its files below a folder; programs answer from files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.here = Here(folder / "bin")
        self.program("docker", DOCKER)
        self.program("apt-mark", "case $1 in showauto) echo nginx:amd64 ;; *) echo kept ;; esac")
        self.program(
            "dpkg-query",
            'case "$*" in *Conffiles*) cat conffiles 2>/dev/null ;;'
            ' "-S "*) echo "nginx: $PWD/etc/nginx/owned" ;; *) cat packages ;; esac',
        )
        self.program("systemctl", '[ "$1" = --quiet ] && grep -qxF "$2 $3" units')
        self.write("packages", PACKAGES)
        self.write("units", "")
        self.write("etc/nginx/owned", "")
        self.write("containers", "")
        self.write("networks", "")

    def program(self, name: str, script: str) -> None:
        self.here.program(name, f"cd {self.folder}\n{script}")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def moved(self, script: str) -> str:
        for path in (MANIFEST, COPIES, f"{DEPLOYED} ", BEFORE, IMAGES_RECORD, STORE_MARK,
                     "/etc/nginx", "/etc/keepalived"):  # fmt: skip
            script = script.replace(path, f"{self.folder}{path}")
        return script

    def look(self) -> Remains:
        done = self.here.run(self.moved(HostRemains().command(**ASKED)))
        assert done.rc == 0, done.stderr
        return HostRemains().process(done.stdout.splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_packages_of_a_host_with_nothing_of_ours(machine: Machine) -> None:
    found = machine.look()
    assert found.packages == {
        "nginx": Package(
            automatic=True,
            needs=(("libc6",), ("awk", "mawk")),
            likes=(("logrotate",),),
            provides=frozenset({"httpd", "www"}),
        ),
        "kept": Package(),
    }
    assert found.held == {"kept"}
    assert found.sites == ()
    assert (found.own_rules, found.own_haproxy, found.own_keepalived) == (False, False, False)
    assert found.manifest.before is None


def test_a_list_that_is_missing_counts_only_where_the_host_is_somebody_s(machine: Machine) -> None:
    """Removals of earlier versions, cut off at their very end, have left some of them."""
    for name in LISTS[1:]:
        machine.write(f"{BEFORE[1:]}/{name}", f"{name}-1\n")
    assert machine.look().manifest.before is None
    machine.write(STORE_MARK[1:], "mark\n")
    done = machine.here.run(machine.moved(HostRemains().command(**ASKED)))
    assert done.rc != 0


def test_what_was_written_down(machine: Machine) -> None:
    machine.write(MANIFEST[1:], "package nginx\n")
    machine.write(DEPLOYED[1:], f"{'b' * 64}  /b\n{'a' * 64}  /a\n{'c' * 64}  /a\n-  /c\n")
    for name in LISTS:
        machine.write(f"{BEFORE[1:]}/{name}", f"{name}-1\n")
    found = machine.look().manifest
    assert found.packages == {"nginx"}
    assert tuple(found.files) == ("/a", "/b")
    assert found.before is not None
    assert found.before.packages == {"packages-1"}
    assert found.before.groups == {"groups-1"}
    machine.write(STORE_MARK[1:], "mark\n")
    (machine.folder / BEFORE[1:] / LISTS[-1]).unlink()
    with pytest.raises(AssertionError):
        machine.look()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (MANIFEST, "agent /var/lib/vllm/agents/a\nagent /var\n", "'agent /var'"),
        (MANIFEST, "package nginx\nmodel /srv/*\n", "'model /srv/*'"),
        (MANIFEST, "no line \x1b[2Jof ours\n", "'no line of ours'"),
        (MANIFEST, "agent /var/lib/vllm/agents/a\nagent /v", "cut 'agent /v'"),
        (DEPLOYED, f"{'a' * 64}  /a\n{'b' * 64}  /etc/../b\n", "'/etc/../b'"),
        (DEPLOYED, f"{'a' * 64}  /a\nodd /c\n", "'odd /c'"),
        (DEPLOYED, f"{'a' * 64}  /a\n{'b' * 64}  /b", f"cut '{'b' * 64}  /b'"),
    ],
)
def test_damaged_notes_leave_the_host_alone(
    machine: Machine, file: str, text: str, said: str
) -> None:
    machine.write(file[1:], text)
    with pytest.raises(HostError) as raised:
        machine.look()
    cut = said.startswith("cut ")
    how = "ends in the middle of a line" if cut else "has a line that no deploy writes there"
    assert str(raised.value).removeprefix(str(machine.folder)) == (
        f"{file} on the host {how}: {said.removeprefix('cut ')};"
        " restore that file, or correct that line, and run again"
    )


@pytest.mark.parametrize("state", ["is-enabled", "is-active"])
def test_services_of_somebody_s_own(machine: Machine, state: str) -> None:
    for unit, name in (
        ("nftables", "own_rules"), ("haproxy", "own_haproxy"), ("keepalived", "own_keepalived"),
    ):  # fmt: skip
        machine.write("units", f"{state} {unit}.service\n")
        found = machine.look()
        assert [
            one for one in ("own_rules", "own_haproxy", "own_keepalived") if getattr(found, one)
        ] == [name]


def test_a_keepalived_that_somebody_configured(machine: Machine) -> None:
    machine.write("etc/keepalived/keepalived.conf", "")
    assert not machine.look().own_keepalived
    machine.write("etc/keepalived/keepalived.conf", "x")
    assert machine.look().own_keepalived


def test_files_of_others_in_nginx_s_folder(machine: Machine) -> None:
    theirs = ["conf.d/a.conf", "sites-enabled/b", "snippets/c", "modules-enabled/d"]
    ours = ["conf.d/vllm-hosts.conf", "modules-enabled/00-vllm-hosts-limits.conf"]
    ours += ["vllm-hosts/x", "vllm-hosts-lua/y", "snippets/z.dpkg-old", "owned"]
    for name in (*theirs, *ours):
        machine.write(f"etc/nginx/{name}", "")
    (machine.folder / "etc/nginx/modules-enabled/50-lua.conf").symlink_to("/usr/share/lua.conf")
    (machine.folder / "etc/nginx/empty").mkdir()
    assert sorted(machine.look().sites) == sorted(f"{machine.folder}/etc/nginx/{x}" for x in theirs)


def test_the_distribution_s_own_page_is_nobody_s(machine: Machine) -> None:
    page, link = "etc/nginx/sites-available/default", "etc/nginx/sites-enabled/default"
    machine.write(page, "welcome")
    (machine.folder / link).parent.mkdir()
    (machine.folder / link).symlink_to(machine.folder / page)
    digest = hashlib.md5(b"welcome", usedforsecurity=False).hexdigest()
    machine.write("conffiles", f" {machine.folder}/other 0\n {machine.folder}/{page} {digest}\n")
    machine.program(
        "dpkg-query",
        'case "$*" in *Conffiles*) cat conffiles ;;'
        ' "-S "*) echo "nginx: $PWD/etc/nginx/owned";'
        ' echo "nginx: $PWD/etc/nginx/sites-available/default" ;; *) cat packages ;; esac',
    )
    assert machine.look().sites == ()
    machine.write(page, "somebody's")
    assert sorted(machine.look().sites) == [f"{machine.folder}/{page}", f"{machine.folder}/{link}"]
    (machine.folder / page).unlink()
    assert machine.look().sites == (f"{machine.folder}/{link}",)


def test_what_lies_in_folders_that_are_not_only_ours(machine: Machine) -> None:
    folder = machine.folder / "shared"
    assert machine.look().inside == ()
    machine.write("shared/b", "")
    machine.write("shared/agents/deep/x", "")
    (folder / "a\nf 600 0 ").mkdir()
    (folder / "link").symlink_to("/")
    (machine.folder / "led").symlink_to(folder)
    folders = [str(folder), str(machine.folder / "led"), str(machine.folder / "nothing")]
    script = HostRemains().command(**ASKED, folders=folders)
    done = machine.here.run(machine.moved(script))
    assert done.rc == 0, done.stderr
    found = HostRemains().process(done.stdout.splitlines()).inside
    # One line each, whatever it is called; nothing below, and nothing where a link leads.
    assert {one.path.removeprefix(f"{folder}/") for one in found} == {
        "agents", "a?f 600 0 ", "b", "link",
    }  # fmt: skip
    assert not any(one.like_an_agent_s for one in found)


@pytest.mark.parametrize(
    ("line", "like"),
    [
        ("d 700 64101 /var/lib/vllm/agents/qwen", True),
        ("d 755 64101 /var/lib/vllm/agents/qwen", False),
        ("d 700 0 /var/lib/vllm/agents/qwen", False),
        ("f 700 64101 /var/lib/vllm/agents/qwen", False),
        # It becomes a word of a command.
        ("d 700 64101 /var/lib/vllm/agents/a b", False),
    ],
)
def test_a_folder_as_deploys_make_them_for_agents(line: str, like: bool) -> None:
    assert remains._inside(line) == Inside(line.split(" ", 3)[3], like)


@pytest.mark.parametrize("line", ["", "f 600 0 relative", "f six 0 /a", "f 600 root /a"])
def test_a_line_that_is_none(line: str) -> None:
    with pytest.raises(ValueError):
        remains._inside(line)


def test_what_is_in_docker(machine: Machine) -> None:
    machine.write(
        "containers",
        "0a1|/qwen|vllm|/opt/vllm|true\n0b2|/fetch||\n".replace("||\n", "|||false\n")
        + "0c3|/other|vllm|/elsewhere|true\n0d4|/x|y|/opt/vllm|false\n0e5|/fetch2|||true\n",
    )
    machine.write(
        "networks",
        "bridge||docker0\nhost||\nnone||\nvllm_qwen|vllm|vllm-8001\nvllm-f||vllm-f\n"
        "mine|other|vllm-9\nvllm_x|vllm|br-1\nvllm-g||vllm-h\n",
    )
    machine.write(IMAGES_RECORD[1:], f"{IMAGE} vllm:v1\n")
    assert machine.look().docker == DockerHolds(
        installed=True,
        answers=True,
        containers=(
            Inhabitant("0a1", "qwen", True, True),
            Inhabitant("0b2", "fetch", True, False),
            Inhabitant("0c3", "other", False, True),
            Inhabitant("0d4", "x", False, False),
            Inhabitant("0e5", "fetch2", False, True),
        ),
        networks=("vllm_qwen", "vllm-f"),
        others_networks=("mine", "vllm_x", "vllm-g"),
        images=frozenset({"a", "b"}),
        ours=frozenset({IMAGE}),
        volumes=("data",),
    )
    machine.write("down", "")
    assert machine.look().docker == DockerHolds(installed=True, ours=frozenset({IMAGE}))
    script = machine.moved(HostRemains().command(**ASKED)).replace("-v docker", "-v no-docker")
    done = machine.here.run(script)
    assert not HostRemains().process(done.stdout.splitlines()).docker.installed


def test_what_docker_is_asked(machine: Machine) -> None:
    machine.program("docker", 'echo "$*" >>asked; case $1 in ps) echo a ;; esac')
    machine.look()
    asked = (machine.folder / "asked").read_text().splitlines()
    assert asked[:3] == [
        "info",
        "ps -aq --no-trunc",
        'inspect --format {{.ID}}|{{.Name}}|{{index .Config.Labels "com.docker.compose.project"}}'
        '|{{index .Config.Labels "com.docker.compose.project.working_dir"}}|{{.State.Running}} a',
    ]
    machine.program("docker", 'echo "$*" >>asked; [ "$2" != ls ] || echo n')
    machine.look()
    asked = (machine.folder / "asked").read_text().splitlines()
    assert (
        'network inspect --format {{.Name}}|{{index .Labels "com.docker.compose.project"}}'
        '|{{index .Options "com.docker.network.bridge.name"}} n'
    ) in asked


def test_an_identifier_becomes_a_word_of_a_command() -> None:
    parts: dict[str, Any] = {
        "asked": ["/opt/vllm|vllm|fetch|vllm-"],
        "containers": ["a;b|/x|||true"],
    }
    with pytest.raises(ValueError, match=r"^a;b$"):
        remains._docker(parts)
    with pytest.raises(ValueError, match=r"^z{100}$"):
        remains._hexadecimal("z" * 200)
    # One of Docker's has every digit sooner or later.
    whole = "0123456789abcdef" * 4
    assert remains._hexadecimal(whole) == whole


def test_an_odd_answer_is_said_to_be_about_what_deploys_left() -> None:
    with pytest.raises(HostError, match="^what deploys have left on the host could not be"):
        HostRemains().process(["== asked", "/opt/vllm|vllm", END])


class TestVersions:
    def test_three_of_each(self, machine: Machine) -> None:
        paths = [f"{machine.folder}/now/a", f"{machine.folder}/now/b c"]
        for path in paths[:1]:
            machine.write(path[len(str(machine.folder)) + 1 :], "now\n")
            machine.write(f"{BEFORE[1:]}/files{path}", "before\n" * 40)
            machine.write(f"{COPIES[1:]}{path}", "")
        done = machine.here.run(machine.moved(Versions().command(paths)))
        assert done.rc == 0
        assert Versions().process(done.stdout.splitlines()) == {
            paths[0]: Version(b"now\n", b"before\n" * 40, b""),
            paths[1]: Version(None, None, None),
        }

    def test_what_is_no_base64(self) -> None:
        lines = ["== now /a", "there", "eA=~=", "== before /a", "== deployed /a", END]
        with pytest.raises(HostError, match="files that are only partly ours could not be"):
            Versions().process(lines)
