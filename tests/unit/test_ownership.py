"""Whose a host is: its mark, the keys of hosts without one, and what a run leaves behind."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.stores import made
from tests.unit.samples import QWEN, settings
from vllm_hosts.errors import SettingsError
from vllm_hosts.facts.mark import HostMark
from vllm_hosts.host.files import File, Found
from vllm_hosts.keys import HostKeys, KeyStore, OpenedStore, store_content
from vllm_hosts.keys.hosts import identified, left_behind, released, with_host
from vllm_hosts.keys.ownership import Claim
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.keys.store_content import Content, DeployedHost
from vllm_hosts.keys.store_marks import Mark, Marked, Signs, Whose, ca_name, digests, whose
from vllm_hosts.roles.client_keys.plan import clients_map
from vllm_hosts.roles.secrets.plan import secret_entries

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
#: A mark as it is written.
PLAIN = Found("f", 0o644, ("root", "0"), ("root", "0"))
GPU1 = settings()
WAY = DeployedHost(data={"ssh_user": "admin", "_sudo": True}, agents=("qwen",))


@pytest.fixture
def prod(tmp_path: Path) -> Claim:
    return claim(tmp_path, "prod")


def claim(folder: Path, name: str, *, keep: bool = True) -> Claim:
    """An inventory's claim on gpu1, after a deploy or before it."""
    (folder / "inventory").mkdir(exist_ok=True)
    file = folder / "inventory" / f"{name}.py"
    file.touch()
    opened = OpenedStore(KeyStore(file))
    opened.host_keys(GPU1)
    opened.local_ca()
    found = Claim("gpu1", file, opened, WAY)
    if keep:
        found.keep()
    return found


def mark(one: Claim, file: Found = PLAIN) -> Marked:
    return Marked(one.mark.text().strip(), file)


def old(one: Claim, *, ca: bool = True, clients: bool = True, agents: bool = True) -> Marked:
    """What a host shows that a version without marks deployed to."""
    issued = one.opened.local_ca().issue(["gpu1"], 300, utc_now()).certificate_pem
    store = one.opened.content
    keys = digests(store, "nobody", ()) if clients else frozenset()
    if agents:
        keys |= digests(store, "gpu1", ["qwen"]) - digests(store, "nobody", ())
    return Marked(None, certificate=issued if ca else None, digests=keys)


def test_keys_in_env_say_that_agents_were_deployed(prod: Claim) -> None:
    known = min(prod.signs.digests)
    assert prod.has_keys(Marked(None, own=frozenset({known, "0" * 64})))
    assert not prod.has_keys(Marked(None, own=frozenset({"0" * 64})))
    assert not prod.has_keys(Marked(None, digests=frozenset({known}))), "a gateway's clients"


class TestWhose:
    def test_a_fresh_host_is_nobodys(self, prod: Claim) -> None:
        assert prod.judge(Marked(None)) is Whose.NOBODYS

    def test_the_mark_decides(self, prod: Claim, tmp_path: Path) -> None:
        copied = claim(tmp_path, "copied")
        assert prod.judge(mark(prod)) is Whose.OURS
        assert copied.judge(mark(prod)) is Whose.ANOTHERS

    @pytest.mark.parametrize("text", ["", "store x", "store 00\ninventory prod", "garbage"])
    def test_a_mark_that_says_nothing(self, prod: Claim, text: str) -> None:
        found = Marked(text, PLAIN)
        assert prod.judge(found) is Whose.UNREADABLE
        assert "mv /etc/vllm-hosts/store /etc/vllm-hosts/store.unreadable" in prod.refusal(found)

    def test_a_link_is_no_mark(self, prod: Claim) -> None:
        assert prod.judge(mark(prod, replace(PLAIN, kind="l", mode=0o777))) is Whose.UNREADABLE

    @pytest.mark.parametrize(
        "file",
        [
            replace(PLAIN, mode=0o666),
            replace(PLAIN, owner=("admin", "1000")),
            replace(PLAIN, group=("admin", "1000")),
        ],
    )
    def test_a_mark_of_ours_that_others_can_write_is_ours_and_written_anew(
        self, prod: Claim, file: Found
    ) -> None:
        assert prod.judge(mark(prod, file)) is Whose.OURS
        assert not mark(prod, file).is_right(prod.mark)
        assert mark(prod).is_right(prod.mark)

    @pytest.mark.parametrize("left_out", ["", "ca", "clients", "agents", "ca clients", "ca agents"])
    def test_a_host_of_an_earlier_version(self, prod: Claim, tmp_path: Path, left_out: str) -> None:
        copied = claim(tmp_path, "copied")
        found = old(prod, **dict.fromkeys(left_out.split(), False))
        assert prod.judge(found) is Whose.OURS
        assert copied.judge(found) is Whose.ANOTHERS
        assert "inventory/prod.py" in copied.refusal(found)

    def test_one_of_two_cas_that_clients_trust(self, prod: Claim) -> None:
        both = LocalCa.create("prod", NOW).certificate_pem + prod.opened.local_ca().certificate_pem
        found = old(prod, clients=False, agents=False)
        signs = Signs(prod.opened.store_id, frozenset(), both)
        assert whose(found, signs) is Whose.OURS

    def test_keys_that_users_provide_prove_nothing(self, prod: Claim, tmp_path: Path) -> None:
        """Two inventories may name one variable."""
        theirs = Claim("gpu1", prod.inventory, prod.opened, WAY, own_keys=False)
        assert theirs.judge(old(prod, ca=False, clients=False)) is Whose.ANOTHERS

    def test_a_certificate_of_somebody_else_s_ca_is_no_sign(self, prod: Claim) -> None:
        issued = LocalCa.create("x", NOW).issue(["gpu1"], 9, NOW).certificate_pem
        assert ca_name(issued) == "x"
        assert ca_name(b"junk") is None
        assert prod.judge(Marked(None, certificate=b"junk")) is Whose.NOBODYS
        assert prod.judge(Marked(None, certificate=issued)) is Whose.ANOTHERS


class TestTheFact:
    """Its script, on this machine."""

    def look(self, folder: Path) -> Marked:
        script = HostMark().command(str(folder / "opt"))
        for path in ("/etc/vllm-hosts", "/etc/nginx/vllm-hosts"):
            script = script.replace(path, str(folder / path.rpartition("etc/")[2]))
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return HostMark().process(done.stdout.splitlines())

    def host(self, folder: Path) -> None:
        for name in ("vllm-hosts/tls", "nginx/vllm-hosts", "opt"):
            (folder / name).mkdir(parents=True)

    def test_nothing_there(self, prod: Claim, tmp_path: Path) -> None:
        assert self.look(tmp_path) == Marked(None)

    def test_a_mark(self, prod: Claim, tmp_path: Path) -> None:
        self.host(tmp_path)
        (tmp_path / "vllm-hosts/store").write_text(prod.mark.text())
        (tmp_path / "vllm-hosts/store").chmod(0o644)
        found = self.look(tmp_path)
        assert prod.judge(found) is Whose.OURS
        assert (found.file.kind, found.file.mode) == ("f", 0o644)
        (tmp_path / "vllm-hosts/store").write_text("")
        assert prod.judge(self.look(tmp_path)) is Whose.UNREADABLE

    @pytest.mark.parametrize("what", ["certificate", "clients", "agents"])
    def test_keys_of_an_earlier_version(self, prod: Claim, tmp_path: Path, what: str) -> None:
        self.host(tmp_path)
        keys = prod.opened.host_keys(GPU1)
        issued = prod.opened.local_ca().issue(["gpu1"], 300, utc_now())
        [env] = [one for one in secret_entries(GPU1, keys) if isinstance(one, File)]
        if what == "certificate":
            (tmp_path / "vllm-hosts/tls/certificate.pem").write_bytes(issued.certificate_pem)
        elif what == "clients":
            (tmp_path / "nginx/vllm-hosts/clients.map").write_text(clients_map(keys.clients))
        else:
            (tmp_path / "opt/.env").write_bytes(env.content)
        found = self.look(tmp_path)
        assert prod.judge(found) is Whose.OURS
        assert claim(tmp_path, "copied").judge(found) is Whose.ANOTHERS
        key = keys.clients[0].value.get_secret_value()
        assert key not in repr(found)


class TestTheStore:
    def test_nothing_is_written_before_a_host_is_ours(self, tmp_path: Path) -> None:
        claim(tmp_path, "prod", keep=False)
        assert [path.name for path in (tmp_path / "inventory").iterdir()] == ["prod.py"]

    def test_looking_makes_nothing(self, tmp_path: Path) -> None:
        store = KeyStore(tmp_path / "prod.py")
        for look in (store.read, lambda: store.host_keys(GPU1), lambda: store.client_key("x")):
            with pytest.raises(SettingsError, match="there is no key store"):
                look()
        with pytest.raises(SettingsError, match="there is no key store"):
            store.update(lambda content: content)
        assert store.peek() is None
        assert store.ca_certificate() is None
        assert list(tmp_path.iterdir()) == []

    def test_keeping_one_host_keeps_no_other_s_key(self, tmp_path: Path) -> None:
        opened = OpenedStore(KeyStore(tmp_path / "prod.py"))
        opened.host_keys(GPU1)
        opened.host_keys(settings(name="refused"))
        opened.keep("gpu1", WAY)
        content = opened.store.read()
        assert (list(content.internal), list(content.hosts)) == (["gpu1"], ["gpu1"])
        assert content == opened.content.model_copy(
            update={"hosts": {"gpu1": WAY}, "internal": content.internal}
        )

    def test_a_second_run_changes_nothing_in_the_file(self, prod: Claim, tmp_path: Path) -> None:
        before = prod.opened.store.path.read_bytes()
        again = claim(tmp_path, "prod", keep=False)
        assert again.kept()
        again.keep()
        assert prod.opened.store.path.read_bytes() == before
        moved = Claim("gpu1", prod.inventory, again.opened, DeployedHost(data={"ssh_port": 2222}))
        assert not moved.kept()

    def test_another_run_made_the_store_meanwhile(self, tmp_path: Path) -> None:
        late = claim(tmp_path, "prod", keep=False)
        claim(tmp_path, "prod")
        with pytest.raises(SettingsError, match="another run has changed .*; run this one again"):
            late.keep()

    def test_a_store_of_an_earlier_version_gets_one_identifier(self) -> None:
        """In two clones, also where one of them has deployed to a new host by then."""
        before = store_content.with_internal(store_content.new_content(NOW), ["gpu1"], NOW)
        before = before.model_copy(update={"id": None})
        later = store_content.with_internal(before, ["gpu2"], NOW + timedelta(hours=1))
        assert identified(before).id == identified(later).id
        assert identified(identified(before)) == identified(before)
        without = store_content.new_content(NOW).model_copy(update={"id": None})
        assert identified(without).id == identified(without).id
        assert identified(Content()).id
        secrets = [key.value.get_secret_value() for key in before.internal.values()]
        assert not any(secret in str(identified(before).id) for secret in secrets)

    def test_an_old_store_is_read_and_kept_with_one(self, tmp_path: Path) -> None:
        store = KeyStore(tmp_path / "prod.py")
        whole = made(store)
        store.path.write_text(
            whole.model_dump_json(include={"version", "clients", "internal", "ca"})
        )
        assert store.read().id is None
        opened = OpenedStore(store)
        opened.host_keys(GPU1)
        assert not opened.kept("gpu1", WAY)
        opened.keep("gpu1", WAY)
        assert store.read().id == opened.store_id

    def test_a_ca_that_is_needed_later(self, tmp_path: Path) -> None:
        """As where tls.mode was files until now."""
        store = KeyStore(tmp_path / "prod.py")
        first = OpenedStore(store)
        first.host_keys(GPU1)
        first.keep("gpu1", WAY)
        later = OpenedStore(store)
        assert later.kept("gpu1", WAY)
        made = later.local_ca()
        assert not later.kept("gpu1", WAY)
        assert store.ca_certificate() is None
        later.keep("gpu1", WAY)
        assert store.ca_certificate() == made.certificate_pem


class TestHostsOfAStore:
    content = store_content.with_internal(
        with_host(store_content.new_content(NOW), "gpu2", WAY), ["gpu1", "gpu2", "old"], NOW
    )

    def test_those_that_are_left(self) -> None:
        assert left_behind(self.content, ["gpu1"]) == ["gpu2", "old"]
        assert left_behind(self.content, ["gpu1", "gpu2", "old"]) == []
        # Versions that knew no hosts made keys for neighbours as well.
        assert left_behind(self.content, ["gpu1"], ["old"]) == ["gpu2"]
        # A host that was deployed to, and is only a neighbour now, has keys.
        assert left_behind(self.content, ["gpu1"], ["gpu2", "old"]) == ["gpu2"]

    def test_a_released_one_is_forgotten(self) -> None:
        after = released(self.content, "gpu2")
        assert (list(after.hosts), sorted(after.internal)) == ([], ["gpu1", "old"])
        with pytest.raises(SettingsError, match="has no host 'gpu9'; it has gpu1"):
            released(self.content, "gpu9")

    def test_a_mark_and_back(self) -> None:
        mark = Mark("0" * 32, "prod 2")
        assert Mark.read(mark.text()) == mark

    def test_digests_know_every_key_of_a_client(self) -> None:
        rotated = store_content.rotate(self.content, "default", NOW, timedelta())
        assert digests(self.content, "x", ()) != digests(rotated, "x", ())
        keys = HostKeys(SecretStr("a"), (), None)
        assert keys.internal_of("qwen") != keys.internal_of("coder")
        assert QWEN["name"] == "qwen"
