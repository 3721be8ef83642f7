"""`vllm-hosts keys`, as people use it, with the plain and with the encrypted store."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import pyrage
import pytest

from tests.stores import made
from tests.unit.projects import AGENT, ROOT, Project
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.age import named_recipients

PROD = "inventory/prod.py"


@pytest.fixture(scope="module")
def own_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's, made once."""
    path = tmp_path_factory.mktemp("own") / "id_ed25519"
    ssh_key(path, "me@laptop")
    return path


@pytest.fixture
def project(tmp_path: Path, own_key: Path) -> Project:
    """A project with two hosts, of a user with an SSH key without passphrase."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    for path in (own_key, own_key.with_name(own_key.name + ".pub")):
        shutil.copy2(path, home / ".ssh")
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    project.environment = {"HOME": str(home)}
    project.write(PROD, "gpu_hosts = ['gpu1.example.com', 'gpu2.example.com']\n")
    project.group(agents=[AGENT, dict(AGENT, name="coder", port=8002, gpus=[1])])
    return project


def ssh_key(path: Path, comment: str, passphrase: str = "") -> str:
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", comment, "-f", str(path)]
    subprocess.run(words, check=True)
    return path.with_name(path.name + ".pub").read_text().strip()


def keys(project: Project, *words: str, code: int = 0) -> str:
    done = project.run("vllm-hosts", "keys", *words)
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    return done.stdout


def shown(project: Project, client: str) -> str:
    key = keys(project, "show", "--force", PROD, client)
    assert len(key) == 43, key
    return key


@pytest.fixture(params=["plain", "encrypted"])
def store(request: pytest.FixtureRequest, project: Project) -> Project:
    made(KeyStore(project.folder / PROD))
    if request.param == "encrypted":
        keys(project, "init", PROD)
    return project


class TestBothStores:
    def test_add_list_show(self, store: Project) -> None:
        said = keys(store, "add", PROD, "alice", "--agents", "coder", "--expires", "30d")
        assert "pyinfra -y inventory/prod.py keys.py" in said
        assert "gpu1.example.com, gpu2.example.com: takes effect with" in said
        listed = {item["client"]: item for item in json.loads(keys(store, "list", PROD, "--json"))}
        assert set(listed) == {"default", "alice"}
        assert listed["alice"]["agents"] == ["coder"]
        [key] = listed["alice"]["keys"]
        assert key["valid"] is True
        assert len(key["fingerprint"]) == 8
        text = keys(store, "list", PROD)
        assert f"...{key['fingerprint']}" in text
        assert "agents: coder; hosts: all" in text
        assert keys(store, "list", "--names", PROD).split() == ["alice", "default"]
        assert shown(store, "alice") not in text
        assert shown(store, "alice") != shown(store, "default")

    def test_rotate_and_revoke(self, store: Project) -> None:
        before = shown(store, "default")
        keys(store, "rotate", PROD, "default", "--overlap", "1h")
        assert shown(store, "default") != before
        [item] = json.loads(keys(store, "list", PROD, "--json"))
        assert [bool(key["expires"]) for key in item["keys"]] == [True, False]
        assert "is revoked in the store" in keys(store, "revoke", PROD, "default")
        assert json.loads(keys(store, "list", PROD, "--json")) == []
        # The last client does not come back by itself.
        assert "there is no client 'default'" in keys(
            store, "show", "--force", PROD, "default", code=1
        )

    def test_rotate_internal(self, store: Project) -> None:
        said = keys(store, "rotate-internal", PROD, "--hosts", "gpu2.example.com")
        assert "new internal keys for gpu2.example.com" in said
        assert "pyinfra inventory/prod.py deploy.py" in said

    @pytest.mark.parametrize(
        ("words", "code", "sentence"),
        [
            (["add", PROD, "Bad Name"], 1, "'Bad Name' is not a client name"),
            (["add", PROD, "default"], 1, "client 'default' already exists"),
            (["add", PROD, "x", "--agents", "cod"], 2, "no agent 'cod'; there is coder, one"),
            (["add", PROD, "x", "--hosts", "gpu9"], 2, "there is no host 'gpu9'"),
            (["rotate-internal", PROD, "--hosts", "gpu9"], 2, "there is no host 'gpu9'"),
            (["rotate", PROD, "bob"], 1, "there is no client 'bob'; there is default"),
            (["revoke", PROD, "bob"], 1, "there is no client 'bob'; there is default"),
            (["show", PROD, "default"], 1, "add --force to print one elsewhere"),
        ],
    )
    def test_mistakes(self, store: Project, words: list[str], code: int, sentence: str) -> None:
        store.run("vllm-hosts", "keys", "list", PROD)
        assert sentence in keys(store, *words, code=code)

    def test_a_length_of_time_that_is_none(self, store: Project) -> None:
        said = keys(store, "add", PROD, "x", "--expires", "soon", code=2)
        assert "'soon' is not a duration; write it as 90m, 24h or 30d" in said

    def test_two_at_once_lose_nothing(self, store: Project) -> None:
        shown(store, "default")
        running = [("vllm-hosts", "keys", "add", PROD, f"client{n}") for n in range(6)]
        assert [done.returncode for done in store.run_at_once(*running)] == [0] * 6
        found = {item["client"] for item in json.loads(keys(store, "list", PROD, "--json"))}
        assert found == {"default", *(f"client{n}" for n in range(6))}

    def test_a_rotation_that_is_killed_leaves_a_store_that_works(self, store: Project) -> None:
        shown(store, "default")
        words = ("vllm-hosts", "keys", "rotate", PROD, "default", "--overlap", "1h")
        began = time.monotonic()
        store.run_at_once(words)
        whole = time.monotonic() - began
        for n in range(8):
            store.run_at_once(words, timeout=whole * (n + 1) / 9, killed=True)
            shown(store, "default")
        left = [p.name for p in (store.folder / "keys").glob("*")] if is_encrypted(store) else []
        assert [name for name in left if name.endswith(".age")] == ["prod.age"] * is_encrypted(
            store
        )


def is_encrypted(project: Project) -> bool:
    return (project.folder / "keys" / "prod.age").exists()


class TestEncryption:
    def test_init_moves_every_secret_and_the_ca(self, project: Project) -> None:
        made(KeyStore(project.folder / PROD))
        before = shown(project, "default")
        project.run("vllm-hosts", "endpoints", PROD)
        said = keys(project, "init", PROD)
        assert "commit it" in said
        assert shown(project, "default") == before
        state = project.folder / "inventory" / ".vllm-hosts" / "prod"
        assert not (state / "keys.json").exists()
        assert not (state / "ca.key").exists()
        assert (state / "ca.pem").exists()
        data = (project.folder / "keys" / "prod.age").read_bytes()
        assert data.startswith(b"age-encryption.org/v1\n")
        assert before.encode() not in data
        assert "exists; see vllm-hosts keys recipients" in keys(project, "init", PROD, code=1)

    def test_the_age_program_reads_it(self, project: Project) -> None:
        if shutil.which("age") is None:
            pytest.fail("the program age is not installed; make setup installs it")
        keys(project, "init", PROD)
        identity = Path(project.environment["HOME"]) / ".ssh" / "id_ed25519"
        done = subprocess.run(
            ["age", "-d", "-i", str(identity), "keys/prod.age"],
            cwd=project.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert set(json.loads(done.stdout)["clients"]) == {"default"}

    @pytest.mark.parametrize(
        "named", ["rsa me", "  rsa   me ", "rsa me at work", "key", "line", "kind and key"]
    )
    def test_a_recipient_by_any_of_its_names(self, named: str) -> None:
        other = "ssh-ed25519 AAAAother carol"
        line = "ssh-rsa AAAAkey rsa me at work" if "work" in named else "ssh-rsa AAAAkey rsa me"
        meant = {"key": "AAAAkey", "line": line, "kind and key": "ssh-rsa AAAAkey"}
        assert named_recipients([line, other], meant.get(named, named)) == [line]

    @pytest.mark.parametrize("named", ["", " ", "ssh-rsa", "ssh-ed25519", "rsa", "me", "dave"])
    def test_what_names_no_recipient(self, named: str) -> None:
        lines = ["ssh-rsa AAAAkey rsa me", "ssh-ed25519 AAAAother carol", "age1abc"]
        assert named_recipients(lines, named) == []

    def test_recipients_with_spaces(self, project: Project, tmp_path: Path) -> None:
        keys(project, "init", PROD)
        keys(project, "recipients", "add", PROD, ssh_key(tmp_path / "other", "bob at desk"))
        age = str(pyrage.x25519.Identity.generate().to_public())
        keys(project, "recipients", "add", PROD, f"  {age} \n")
        assert "can already decrypt the keys" in keys(project, "recipients", "add", PROD, age)
        keys(project, "recipients", "remove", PROD, "bob at desk")
        keys(project, "recipients", "remove", PROD, f" {age}")
        assert len(keys(project, "recipients", "list", PROD).splitlines()) == 1

    def test_a_deploy_without_an_identity_says_what_pyinfra_takes(
        self, project: Project, tmp_path: Path
    ) -> None:
        """O22."""
        keys(project, "init", PROD)
        (tmp_path / "home" / ".ssh" / "id_ed25519").rename(tmp_path / "away")
        done = project.run("pyinfra", "-y", PROD, "deploy.py")
        assert done.returncode == 2
        assert "put VLLM_HOSTS_IDENTITY=FILE" in done.stdout
        assert "--identity" not in done.stdout
        assert "name one with --identity" in keys(project, "list", PROD, code=1)
        project.environment["VLLM_HOSTS_IDENTITY"] = str(tmp_path / "away")
        keys(project, "list", PROD)

    def test_a_second_identity_as_docs_keys_md_has_it(
        self, project: Project, tmp_path: Path
    ) -> None:
        """O22: the first one is lost, and the backup opens the store."""
        typed = "VLLM_HOSTS_IDENTITY=BACKUP vllm-hosts keys list inventory/prod.py"
        assert f"`{typed}`" in (ROOT / "docs" / "keys.md").read_text()
        backup = pyrage.x25519.Identity.generate()
        (tmp_path / "backup").write_text(f"{backup}\n")
        keys(project, "init", PROD)
        keys(project, "recipients", "add", PROD, str(backup.to_public()))
        (tmp_path / "home" / ".ssh" / "id_ed25519").unlink()
        keys(project, "list", PROD, code=1)
        done = project.shell(typed.replace("BACKUP", str(tmp_path / "backup")))
        assert done.returncode == 0, done.stdout
        assert done.stdout.startswith("default ")

    def test_a_clone_with_the_encrypted_store(self, project: Project) -> None:
        """O14."""
        keys(project, "init", PROD)
        file = project.folder / "inventory" / ".vllm-hosts" / "prod" / "ca.pem"
        public = file.read_text()
        assert str(file) in project.run("vllm-hosts", "endpoints", PROD).stdout
        file.unlink()
        said = project.run("vllm-hosts", "endpoints", PROD).stdout
        assert "(write it: " in said
        assert f"ca {PROD} > {file})" in said
        done = project.run("vllm-hosts", "ca", PROD)
        assert (done.returncode, done.stdout) == (0, public)

    def test_recipients_come_and_go(self, project: Project, tmp_path: Path) -> None:
        keys(project, "init", PROD)
        other = ssh_key(tmp_path / "other", "bob@desk")
        said = keys(project, "list", PROD, "--identity", str(tmp_path / "other"), code=1)
        assert "other: is not one of the recipients" in said
        keys(project, "recipients", "add", PROD, other)
        assert other in keys(project, "recipients", "list", PROD)
        keys(project, "list", PROD, "--identity", str(tmp_path / "other"))
        assert "rotate-internal" in keys(project, "recipients", "remove", PROD, "bob@desk")
        keys(project, "list", PROD, "--identity", str(tmp_path / "other"), code=1)
        keys(project, "list", PROD)
        said = keys(project, "recipients", "remove", PROD, "me@laptop", code=1)
        assert "that is the last recipient" in said
        said = keys(project, "recipients", "add", PROD, "nonsense", code=1)
        assert "is not a recipient" in said

    def test_a_key_with_a_passphrase_is_explained(self, project: Project, tmp_path: Path) -> None:
        public = ssh_key(tmp_path / "locked", "locked", passphrase="secret words")
        keys(project, "init", PROD)
        keys(project, "recipients", "add", PROD, public)
        project.environment["VLLM_HOSTS_IDENTITY"] = str(tmp_path / "locked")
        said = keys(project, "list", PROD, code=1)
        assert "has a passphrase" in said
        assert "age-keygen" in said

    def test_keys_that_nobody_here_could_open_are_not_encrypted(
        self, project: Project, tmp_path: Path
    ) -> None:
        made(KeyStore(project.folder / PROD))
        before = shown(project, "default")
        public = ssh_key(tmp_path / "other", "other")
        said = keys(project, "init", PROD, "--recipient", public, code=1)
        assert "no identity fits" in said
        assert shown(project, "default") == before
        assert not (project.folder / "keys" / "prod.age").exists()

    def test_no_identity_at_all(self, project: Project) -> None:
        shutil.rmtree(Path(project.environment["HOME"]) / ".ssh")
        said = keys(project, "init", PROD, code=1)
        assert "there is no identity in the usual places" in said

    @pytest.mark.parametrize("damage", ["cut", "turned", "emptied"])
    def test_a_damaged_store_is_told_and_kept(self, project: Project, damage: str) -> None:
        keys(project, "init", PROD)
        path = project.folder / "keys" / "prod.age"
        data = path.read_bytes()
        bad = {"cut": data[:-3], "turned": data[:-40] + b"x" * 40, "emptied": b""}[damage]
        path.write_bytes(bad)
        said = keys(project, "rotate", PROD, "default", code=1)
        assert "prod.age is damaged" in said
        assert "git checkout" in said
        assert path.read_bytes() == bad
        path.write_bytes(data)
        shown(project, "default")

    def test_a_full_disk_leaves_the_store_as_it_was(self, project: Project) -> None:
        """A limit on the size of files stands in for the disk: writing ends with an error."""
        keys(project, "init", PROD)
        before = (project.folder / "keys" / "prod.age").read_bytes()

        limited = project.patched(
            "import resource, signal, sys",
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))",
            "sys.dont_write_bytecode = True",
        )
        with project.begin(limited, "keys", "rotate", PROD, "default") as process:
            said, _ = process.communicate(timeout=20)
        assert process.returncode == 1, said
        assert "prod.age cannot be written: File too large; it is unchanged" in said
        assert (project.folder / "keys" / "prod.age").read_bytes() == before
        shown(project, "default")


def endpoints(project: Project, *words: str, code: int = 0) -> str:
    done = project.run("vllm-hosts", "endpoints", PROD, *words)
    assert done.returncode == code, done.stdout
    return done.stdout


def test_endpoints_name_a_client_that_there_is(store: Project) -> None:
    """O14."""
    keys(store, "add", PROD, "alice", "--agents", "coder")
    keys(store, "add", PROD, "zoe")
    assert "of client 'default'" in endpoints(store)
    keys(store, "revoke", PROD, "default")
    assert "of client 'zoe'" in endpoints(store)
    assert "of client 'alice'" in endpoints(store, "--client", "alice")
    assert "there is no client 'bob'; there is alice, zoe" in endpoints(
        store, "--client", "bob", code=1
    )
    for name in ("alice", "zoe"):
        keys(store, "revoke", PROD, name)
    assert "no client has a valid key" in endpoints(store, code=1)


def test_no_ca_yet(project: Project) -> None:
    done = project.run("vllm-hosts", "ca", PROD)
    assert done.returncode == 1
    assert "the first deploy creates it: pyinfra inventory/prod.py deploy.py" in done.stdout
    assert not (project.folder / "inventory" / ".vllm-hosts").exists()
    assert "(the first deploy creates it)" in endpoints(project)
    assert "there is no client 'bob' yet; create it: vllm-hosts keys add INVENTORY bob" in (
        endpoints(project, "--client", "bob", code=1)
    )
    assert "(the first deploy creates it)" in endpoints(project, "--client", "default")


def test_an_end_is_said_and_can_be_moved(store: Project) -> None:
    """O13."""
    keys(store, "add", PROD, "alice", "--expires", "30d")
    before = shown(store, "alice")
    assert "alice has a new key, until 20" in keys(store, "rotate", PROD, "alice")
    said = keys(store, "rotate", PROD, "alice", "--expires", "90d", "--overlap", "0")
    assert "alice has a new key, until 20" in said
    [key] = json.loads(keys(store, "list", PROD, "--json"))[0]["keys"]
    days = datetime.fromisoformat(key["expires"]) - datetime.fromisoformat(key["created"])
    assert days == timedelta(days=90)
    now = shown(store, "alice")
    assert now != before
    assert "alice's key is valid without expiry" in keys(
        store, "extend", PROD, "alice", "--expires", "0"
    )
    assert shown(store, "alice") == now
    said = keys(store, "extend", PROD, "alice", "--expires", "7d")
    assert "alice's key is valid until 20" in said
    assert "pyinfra -y inventory/prod.py keys.py" in said
    assert shown(store, "alice") == now
    assert "alice has a new key, without expiry" in keys(
        store, "rotate", PROD, "alice", "--expires", "0"
    )
    assert "there is no client 'bob'" in keys(
        store, "extend", PROD, "bob", "--expires", "7d", code=1
    )
