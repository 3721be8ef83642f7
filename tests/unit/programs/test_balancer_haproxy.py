"""What a real HAProxy does with a gateway's configuration."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from math import ceil
from pathlib import Path
from pwd import getpwuid
from subprocess import CalledProcessError
from threading import Event

import pytest

from tests.stores import kept_ca
from tests.unit.real_haproxy import ADDRESS, RealBalancer, StandIn
from tests.unit.samples import settings
from vllm_hosts.host.balancer import Does, ServerState
from vllm_hosts.keys.pki import utc_now

#: More than HAProxy has room for.
LARGE = b"x" * 300_000


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RealBalancer]:
    with RealBalancer(tmp_path, settings()) as one:
        yield one


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[RealBalancer]:
    """For what waits until an agent counts as dead or alive: on a busy machine that may also be
    because a check is late."""
    with RealBalancer(tmp_path, settings(), hurried=True) as one:
        yield one


def others(gateway: RealBalancer, but: StandIn) -> list[StandIn]:
    return [one for one in gateway.replicas if one is not but]


def asked(gateway: RealBalancer) -> list[int]:
    return [len(one.asked) for one in gateway.replicas]


def test_nothing_listens_and_only_nginx_s_user_may_open_the_sockets(gateway: RealBalancer) -> None:
    found = {
        path.name: (oct(path.stat().st_mode & 0o777), path.owner())
        for path in gateway.run.iterdir()
    }
    us = getpwuid(os.geteuid()).pw_name
    assert found == {
        "admin.sock": ("0o600", us),
        "master.sock": ("0o600", us),
        "in.qwen.sock": ("0o600", "nobody" if us == "root" else us),
        "in.qwen.again.sock": ("0o600", "nobody" if us == "root" else us),
    }
    lines = Path("/proc", gateway.pid(), "net/tcp").read_text().splitlines()[1:]
    held = {link.resolve().name for link in Path("/proc", gateway.pid(), "fd").iterdir()}
    listening = {f"socket:[{line.split()[9]}]" for line in lines if line.split()[3] == "0A"}
    assert not listening & held


def test_it_speaks_mutual_tls_and_names_the_agent(gateway: RealBalancer) -> None:
    names = {gateway.home(key).names[-1] for key in "abcdefgh"}
    assert names <= {f"{one.name}.vllm-hosts.internal" for one in gateway.replicas}
    for one in gateway.replicas:
        assert set(one.names) == {f"{one.name}.vllm-hosts.internal"}


def test_what_nginx_sends_arrives_as_it_is(gateway: RealBalancer) -> None:
    body = LARGE * 10
    home = gateway.of(gateway.ask("a", body, **{"X-Request-Id": "1", "Cookie": "a=b"}).body)
    headers, size = home.asked[-1]
    assert size == len(body)
    found = {name.lower(): value for name, value in headers.items()}
    assert found["x-request-id"] == "1"
    assert not {"x-forwarded-for", "via", "forwarded"} & set(found)


def test_nobody_else_s_certificate_is_accepted(hurried: RealBalancer) -> None:
    """Neither one for another agent of the same CA, nor one of another CA."""
    home = hurried.home("a")
    other = kept_ca(hurried.folder / "other-ca", "other", utc_now())
    for ca, name in ((hurried.ca, "qwen.other.vllm-hosts.internal"), (other, home.inner_name)):
        home.shows(ca, name)
        hurried.until(lambda: not hurried.alive(home), "it is still trusted")
        before = len(home.asked)
        assert hurried.ask("a").status == 200
        assert len(home.asked) == before
        home.shows(hurried.ca, home.inner_name)
        hurried.until(lambda: hurried.alive(home), "it does not come back")


class TestShares:
    def test_a_key_stays_with_its_agent(self, gateway: RealBalancer) -> None:
        homes = {key: gateway.home(key).name for key in map(str, range(12))}
        assert len(set(homes.values())) == 3
        assert homes == {key: gateway.home(key).name for key in homes}

    def test_only_those_of_an_agent_that_goes_move(self, gateway: RealBalancer) -> None:
        homes = {key: gateway.home(key) for key in map(str, range(12))}
        gone = homes["0"]
        gateway.tell(gone, ServerState.DRAIN)
        now = {key: gateway.home(key) for key in homes}
        assert gone not in now.values()
        assert {key: one for key, one in now.items() if homes[key] is not gone} == {
            key: one for key, one in homes.items() if one is not gone
        }

    @pytest.mark.parametrize("weights", [(1, 1, 1), (1, 1, 2)])
    @pytest.mark.parametrize("keys", [1, 40])
    def test_none_has_more_than_its_fair_share(
        self, tmp_path: Path, weights: tuple[int, ...], keys: int
    ) -> None:
        """Also where all requests are of one conversation."""
        running = 40
        with RealBalancer(tmp_path, settings(), weights=weights) as gateway:
            for one in gateway.replicas:
                one.answers = "waits"
            with ThreadPoolExecutor(running) as pool:
                waiting = [pool.submit(gateway.ask, str(key % keys)) for key in range(running)]
                gateway.until(
                    lambda: sum(one.running for one in gateway.replicas) == running, "not all run"
                )
                for one in gateway.replicas:
                    one.go_on.set()
                assert {one.result().status for one in waiting} == {200}
            shares = [running * weight / sum(weights) for weight in weights]
            for one, share in zip(gateway.replicas, shares, strict=True):
                assert one.most <= ceil(1.25 * share)


class TestRetries:
    """What nginx does with two sockets, since it has all of a request."""

    @pytest.mark.parametrize(("how", "body"), [("busy", LARGE), ("nothing", b"{}")])
    def test_another_agent_answers(self, gateway: RealBalancer, how: str, body: bytes) -> None:
        home = gateway.home("a")
        home.answers = how
        gateway.quiet()
        before = asked(gateway)
        began = time.monotonic()
        answer = gateway.insist("a", body)
        assert (answer.status, answer.body != home.name) == (200, True)
        assert time.monotonic() - began < 3
        assert sum(asked(gateway)) - sum(before) == 2 or how == "nothing"

    def test_of_an_agent_that_is_gone(self, gateway: RealBalancer) -> None:
        home = gateway.home("a")
        home.answers = "waits"
        home.ends()
        answers = [gateway.insist("a", body) for body in (b"{}", LARGE)]
        assert {one.status for one in answers} == {200}

    def test_nobody_is_asked_twice(self, gateway: RealBalancer) -> None:
        for one in gateway.replicas:
            one.answers = "busy"
        gateway.quiet()
        answer = gateway.insist("a")
        assert answer.status in (502, 503)
        assert sorted(asked(gateway)) == [0, 1, 1]

    def test_nor_the_only_one(self, gateway: RealBalancer) -> None:
        last = gateway.home("a")
        for one in others(gateway, last):
            gateway.tell(one, ServerState.DRAIN)
        last.answers = "busy"
        gateway.quiet()
        before = len(last.asked)
        assert gateway.insist("a").status in (502, 503)
        assert len(last.asked) - before == 1

    def test_none_after_the_first_byte(self, gateway: RealBalancer) -> None:
        for one in gateway.replicas:
            one.answers = "half"
        with pytest.raises(http.client.IncompleteRead):
            gateway.insist("a")
        assert sum(asked(gateway)) == 1

    def test_where_the_others_have_their_share(self, gateway: RealBalancer) -> None:
        """An agent that refuses at once has no requests: bounded load alone would choose it."""
        home = gateway.home("a")
        for one in others(gateway, home):
            one.answers = "waits"
        home.answers = "busy"
        with ThreadPoolExecutor(12) as pool:
            waiting = [pool.submit(gateway.insist, "a") for _ in range(12)]
            gateway.until(
                lambda: sum(one.running for one in others(gateway, home)) == 12, "not all run"
            )
            for one in others(gateway, home):
                one.go_on.set()
            assert {one.result().status for one in waiting} == {200}

    def test_with_nobody_left(self, hurried: RealBalancer) -> None:
        for one in hurried.replicas:
            one.alive = False
        hurried.until(lambda: not any(map(hurried.alive, hurried.replicas)), "they still serve")
        assert hurried.insist("a").status in (502, 503)
        assert sum(asked(hurried)) == 0


class TestHealth:
    @pytest.mark.parametrize("alive", [False, None])
    def test_a_frozen_engine_gets_nothing_more_until_it_lives(
        self, hurried: RealBalancer, alive: bool | None
    ) -> None:
        """What waits there for an answer gets one elsewhere."""
        home = hurried.home("a")
        home.answers = "waits for nothing"
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(hurried.insist, "a")
            hurried.until(lambda: home.running, "it is not asked")
            home.alive = alive
            hurried.until(lambda: not hurried.alive(home), "it still serves")
            assert hurried.ask("a").body in {one.name for one in others(hurried, home)}
            assert waiting.result().body in {one.name for one in others(hurried, home)}
        home.go_on.set()
        home.alive, home.answers = True, "all"
        hurried.until(lambda: hurried.alive(home), "it does not come back")

    def test_one_check_that_fails_is_none(self, hurried: RealBalancer) -> None:
        home = hurried.home("a")
        home.answers = "stream"
        with hurried.asking("a") as answer:
            assert answer.read(5) == b"first"
            home.fails_once.set()
            hurried.until(lambda: not home.fails_once.is_set(), "it is not checked")
            time.sleep(0.3)
            home.go_on.set()
            assert answer.read() == b"last"


class TestDraining:
    def test_what_runs_ends_and_nothing_new_comes(self, gateway: RealBalancer) -> None:
        home = gateway.home("a")
        home.answers = "stream"
        with gateway.asking("a") as answer:
            assert answer.read(5) == b"first"
            gateway.tell(home, ServerState.DRAIN)
            [found] = [one for one in gateway.servers() if one.name == home.name]
            assert (found.alive, found.drained, found.running) == (True, True, 1)
            now = {gateway.of(gateway.ask(key).body) for key in "abcdef"}
            assert now <= set(others(gateway, home))
            home.go_on.set()
            assert answer.read() == b"last"
        gateway.tell(home, ServerState.READY)
        home.answers = "all"
        assert gateway.home("a") is home

    def test_one_that_is_not_there(self, gateway: RealBalancer) -> None:
        """HAProxy's own words are the error."""
        gateway.replicas[0].name = "qwen.other"
        with pytest.raises(CalledProcessError) as error:
            gateway.tell(gateway.replicas[0], ServerState.DRAIN)
        assert "HAProxy: No such server." in str(error.value.stderr)

    def test_it_survives_reloads_restarts_and_kills(self, gateway: RealBalancer) -> None:
        home = gateway.home("a")
        gateway.tell(home, ServerState.DRAIN)
        gateway.reload()
        assert [one.drained for one in gateway.servers()] == [
            one is home for one in gateway.replicas
        ]
        gateway.process.kill()
        gateway.process.wait(20)
        gateway.start()
        assert [one.drained for one in gateway.servers()] == [
            one is home for one in gateway.replicas
        ]
        gateway.tell(home, ServerState.READY)
        gateway.reload()
        assert not any(one.drained for one in gateway.servers())

    def test_a_server_s_new_port_is_not_lost_to_it(self, hurried: RealBalancer) -> None:
        """HAProxy would take the old one from the file."""
        first, second, third = hurried.replicas
        hurried.swap(first, second)
        hurried.tell(third, ServerState.DRAIN)
        hurried.write()
        hurried.reload()
        hurried.until(
            lambda: not hurried.alive(first) and not hurried.alive(second), "ports of old"
        )
        assert [one.drained for one in hurried.servers()] == [False, False, True]


def test_a_host_whose_name_nobody_knows_is_down_until_a_reload(hurried: RealBalancer) -> None:
    """HAProxy asks when it starts, and never again. Nobody has drained it."""
    conf = hurried.folder / "haproxy.cfg"
    known = f"ipv4@{ADDRESS}:{hurried.replicas[0].server_port} "
    conf.write_text(conf.read_text().replace(known, known.replace(f"ipv4@{ADDRESS}", "no.invalid")))
    hurried.reload()
    first = hurried.servers()[0]
    assert (first.does, first.drained) == (Does.DOWN, False)
    assert first.check.startswith("no address was found for the host's name")
    assert first.check.endswith("systemctl reload vllm-hosts-balancer.service on the gateway")
    conf.write_text(conf.read_text().replace("no.invalid", "localhost"))
    hurried.reload()
    hurried.until(lambda: hurried.alive(hurried.replicas[0]), "it stays down")


class TestReloads:
    def test_under_load_they_lose_nothing(self, gateway: RealBalancer) -> None:
        done, numbers = Event(), count()

        def ask() -> Counter[int]:
            found: Counter[int] = Counter()
            while not done.is_set():
                found[gateway.ask(str(next(numbers))).status] += 1
            return found

        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(ask) for _ in range(8)]
            for _ in range(5):
                gateway.reload()
                time.sleep(0.1)
            done.set()
            total = sum((one.result() for one in running), Counter())
        assert set(total) == {200}
        assert total[200] > 50

    def test_a_request_that_has_only_connected_is_answered(self, gateway: RealBalancer) -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(10)
            one.connect(f"{gateway.run}/in.qwen.sock")
            time.sleep(0.1)
            gateway.reload()
            time.sleep(0.3)
            one.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
            assert one.recv(65536).startswith(b"HTTP/1.1 200 ")

    def test_streams_go_on_and_are_counted(self, gateway: RealBalancer) -> None:
        home = gateway.home("a")
        home.answers = "stream"
        with gateway.asking("a") as answer:
            assert answer.read(5) == b"first"
            gateway.reload()
            assert sum(one.running for one in gateway.servers()) == 1
            home.go_on.set()
            assert answer.read() == b"last"
        gateway.quiet()

    def test_a_deploy_waits_until_the_new_one_serves(self, gateway: RealBalancer) -> None:
        before = gateway.pid()
        done = gateway.load()
        assert done.returncode == 0, done.stderr
        assert gateway.pid() != before

    def test_a_deploy_fails_where_it_is_not_taken_up(self, gateway: RealBalancer) -> None:
        before = gateway.pid()
        conf = gateway.folder / "haproxy.cfg"
        conf.write_text(f"{conf.read_text()}\nbackend odd\n    server odd nowhere:odd\n")
        done = gateway.load()
        assert done.returncode == 1
        assert "odd" in done.stderr
        # What the check does not see: the socket is somewhere that does not exist.
        gateway.write()
        conf.write_text(conf.read_text().replace("/in.qwen.sock", "/nowhere/in.qwen.sock"))
        done = gateway.load()
        assert done.returncode == 1
        assert "HAProxy does not take up its new configuration; see journalctl" in done.stdout
        assert (gateway.pid(), gateway.ask("a").status) == (before, 200)

    def test_a_new_certificate_is_shown(self, hurried: RealBalancer) -> None:
        """And one that hosts do not trust opens nothing."""
        other = kept_ca(hurried.folder / "other-ca", "other", utc_now())
        hurried.becomes("gw1", other)
        hurried.reload()
        hurried.until(lambda: not any(map(hurried.alive, hurried.replicas)), "they still serve")
        before = asked(hurried)
        assert hurried.ask("a").status in (502, 503)
        hurried.becomes("gw1", hurried.ca)
        hurried.reload()
        hurried.until(lambda: all(map(hurried.alive, hurried.replicas)), "they do not serve")
        assert asked(hurried) == before
        assert hurried.ask("a").status == 200
