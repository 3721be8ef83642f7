"""Keys change at the edge while clients ask; no running model is touched."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from lab import hosts as lab_hosts
from tests.lab.conftest import HOSTS, INVENTORY, Deployed
from tests.lab.deploys import TWINS, Run, changes, command, deploy
from tests.lab.sabotage.parts import edited
from tests.lab.traffic import Traffic, began
from vllm_hosts.host.paths import EDGE_LUA
from vllm_hosts.keys import KeyStore, store_content
from vllm_hosts.keys.pki import utc_now

LAB = "inventory/lab.py"
#: Limits that the traffic of these tests stays under.
WIDE: dict[str, Any] = {
    "requests_per_second": 10000,
    "burst": 1000,
    "connections": 1000,
}


def keys(*words: str) -> Run:
    run = command("vllm-hosts", "keys", *words)
    assert run.code == 0, run.output
    return run


def added(client: str, *words: str) -> SecretStr:
    keys("add", LAB, client, *words)
    return KeyStore(INVENTORY).client_key(client)


def keys_deploy() -> Run:
    """`pyinfra INVENTORY keys.py`, for every host."""
    run = command("pyinfra", "-y", LAB, "keys.py", settings={"edge": WIDE})
    assert run.code == 0, run.output[-4000:]
    return run


def models(deployed: Deployed, host: str, key: SecretStr, agent: str = "tiny") -> requests.Response:
    return requests.get(
        f"https://{deployed.settings[host].address}/{agent}/v1/models",
        headers={"Authorization": f"Bearer {key.get_secret_value()}"},
        verify=str(deployed.ca_file),
        timeout=10,
    )


def vllm_processes(host: str) -> str:
    return lab_hosts.run(host, "docker inspect --format '{{.Name}} {{.State.Pid}}' tiny").stdout


@pytest.fixture(scope="module", autouse=True)
def wide(deployed: Deployed) -> Iterator[None]:
    """Wide limits, and at the end the clients that there were before."""
    before = KeyStore(INVENTORY).read()
    run = deploy(settings={"edge": WIDE})
    assert run.code == 0, run.output[-4000:]
    yield
    KeyStore(INVENTORY).update(
        lambda content: content.model_copy(update={"clients": before.clients})
    )
    run = deploy()
    assert run.code == 0, run.output[-4000:]


def test_a_client_s_scope(deployed: Deployed) -> None:
    """403 for other agents in OpenAI's format; a host that is not named does not know the key."""
    alice = added("scoped", "--agents", "spare", "--hosts", "gpu1")
    run = keys_deploy()
    assert changes(run) == {"gpu1": 1, "gpu2": 0}
    assert models(deployed, "gpu1", alice, "spare").status_code == 200
    refused = models(deployed, "gpu1", alice)
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "forbidden"
    assert models(deployed, "gpu2", alice).status_code == 401
    assert (
        alice.get_secret_value() not in lab_hosts.run("gpu2", "cat /etc/nginx/vllm-hosts/*").stdout
    )


def test_a_scope_holds_for_models_by_their_names(deployed: Deployed) -> None:
    """At /v1 it is judged in Lua, and verify notices where that lets everybody in."""
    narrow = added("narrow", "--agents", "spare", "--hosts", "gpu1")
    keys_deploy()
    tiny, spare = (agent.client_model_name for agent in deployed.settings["gpu1"].agents)

    def status(model: str) -> int:
        return requests.post(
            f"https://{deployed.settings['gpu1'].address}/v1/completions",
            headers={"Authorization": f"Bearer {narrow.get_secret_value()}"},
            json={"prompt": "x", "max_tokens": 1, "model": model},
            verify=str(deployed.ca_file),
            timeout=30,
        ).status_code

    seen = ("vllm-hosts", "verify", LAB, "--host", "gpu1", "--promise", "KEY-02", "-q")
    assert (status(spare), status(tiny)) == (200, 403)
    assert command(*seen).code == 0
    everybody = 's/vllm_hosts_scope_refused == "0"/vllm_hosts_client ~= ""/'
    lab_hosts.run("gpu1", edited(everybody, f"{EDGE_LUA}/chooser.lua"))
    try:
        assert status(tiny) == 200
        run = command(*seen)
        assert run.code == 1 and "narrow may use" in run.output, run.output[-4000:]
    finally:
        healed = deploy("--limit", "gpu1", settings={"edge": WIDE})
    assert healed.code == 0, healed.output[-4000:]
    assert status(tiny) == 403


@pytest.mark.nightly
def test_one_client_s_prefix_cache_is_not_another_s(deployed: Deployed) -> None:
    """By vLLM's own count of the tokens that it found in its cache."""
    one, other = added("first-reader"), added("second-reader")
    keys_deploy()
    host = deployed.settings["gpu1"]
    agent = host.agents[0]
    prompt = f"{time.time_ns()} " + "one two three four " * 80

    def hits() -> float:
        address = host.cell(agent.name).address
        said = lab_hosts.run(
            "gpu1",
            f"bash -c 'exec 3<>/dev/tcp/{address}/8000;"
            ' printf "GET /metrics HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3\'',
        ).stdout
        found = [line for line in said.splitlines() if line.startswith("vllm:prefix_cache_hits")]
        return sum(float(line.split()[-1]) for line in found if "_created" not in line)

    def found_in_cache(key: SecretStr, **more: str) -> float:
        before = hits()
        answer = requests.post(
            f"https://{host.address}/v1/completions",
            headers={"Authorization": f"Bearer {key.get_secret_value()}"},
            json={
                "prompt": prompt,
                "max_tokens": 1,
                "model": agent.client_model_name,
            }
            | more,
            verify=str(deployed.ca_file),
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return hits() - before

    assert found_in_cache(one) == 0
    assert found_in_cache(one) > 0, "a client has its own"
    assert found_in_cache(other) == 0
    assert found_in_cache(other, cache_salt="a") > 0, "its own salt means nothing"


def test_keys_py_does_nothing_else_and_nothing_twice(deployed: Deployed) -> None:
    before = {host: vllm_processes(host) for host in HOSTS}
    added("another")
    assert changes(keys_deploy()) == {"gpu1": 1, "gpu2": 1}
    again = keys_deploy()
    assert changes(again) == {"gpu1": 0, "gpu2": 0}
    assert again.output.count("--> Starting operation") == 3
    assert {host: vllm_processes(host) for host in HOSTS} == before


def test_from_revocation_to_refusal(deployed: Deployed) -> None:
    mallory = added("mallory")
    keys_deploy()
    assert {models(deployed, host, mallory).status_code for host in HOSTS} == {200}
    started = time.monotonic()
    keys("revoke", LAB, "mallory")
    keys_deploy()
    answers = {models(deployed, host, mallory).status_code for host in HOSTS}
    print(f"from revoke to refusal on {len(HOSTS)} hosts: {time.monotonic() - started:.1f} s")
    assert answers == {401}


def test_an_expired_key_ends_on_the_host_by_itself(deployed: Deployed) -> None:
    brief = added("brief", "--expires", "5s")
    lasting = added("lasting", "--expires", "1h")
    keys_deploy()
    assert models(deployed, "gpu1", brief).status_code == 200
    for host in HOSTS:
        # The timer comes once a minute; a machine that is at much else may miss one.
        deadline = time.monotonic() + 130
        while models(deployed, host, brief).status_code == 200:
            assert time.monotonic() < deadline, "the timer does not end the key"
            time.sleep(1)
        assert models(deployed, host, brief).status_code == 401
        assert models(deployed, host, lasting).status_code == 200
    # What the host did by itself is what the controller would do: nothing is left to change.
    assert changes(keys_deploy()) == {"gpu1": 0, "gpu2": 0}


def test_two_thousand_requests_while_keys_rotate_expire_and_are_revoked(
    deployed: Deployed,
) -> None:
    alice, bob, carol = (added(name) for name in ("alice", "bob", "carol"))
    keys_deploy()
    pids = vllm_processes("gpu1")
    url = f"https://{deployed.settings['gpu1'].address}/tiny/v1"
    clients = [("alice", alice)] * 3 + [("bob", bob)] * 2 + [("carol", carol)] * 3
    with Traffic(url, "tiny", deployed.ca_file, clients) as traffic:
        traffic.wait_for(200)
        keys("rotate", LAB, "alice", "--overlap", "20s")
        keys_deploy()
        new_alice = KeyStore(INVENTORY).client_key("alice")
        assert new_alice != alice
        with Traffic(url, "tiny", deployed.ca_file, [("new alice", new_alice)]) as renewed:
            keys("revoke", LAB, "bob")
            before_revocation = time.monotonic()
            stream = traffic.long_stream(bob)
            keys_deploy()
            revoked = time.monotonic()
            stream.join()
            deadline = revoked + 100
            while traffic.of("alice")[-1].status == 200:
                assert time.monotonic() < deadline, "the old key does not end"
                time.sleep(0.5)
            traffic.wait_for(2000)
            time.sleep(2)
    assert len(traffic.asked) >= 2000
    assert [item for item in traffic.of("carol") if item.status != 200] == []
    assert [item for item in renewed.asked if item.status != 200] == []
    assert len(renewed.asked) > 50
    # Every answer to the old key is right, and once it is refused it stays refused.
    assert_ends_once(traffic, "alice")
    assert_ends_once(traffic, "bob")
    late = [item for item in traffic.of("bob") if item.began > revoked]
    assert late
    assert {item.status for item in late} == {401}
    early = [item for item in traffic.of("bob") if item.ended < before_revocation]
    assert {item.status for item in early} == {200}
    [long] = traffic.of("long stream")
    assert (long.status, long.why) == (200, "")
    assert vllm_processes("gpu1") == pids


def assert_ends_once(traffic: Traffic, client: str) -> None:
    asked = traffic.of(client)
    assert {item.status for item in asked} == {200, 401}, [i for i in asked if i.status == 0][:3]
    first_refusal = min(item.ended for item in asked if item.status == 401)
    # Old nginx workers finish what they have; a new request meets the new ones.
    again = [item for item in asked if item.status == 200 and began(item) > first_refusal + 2]
    assert again == []


@pytest.mark.nightly
def test_internal_keys_rotate_without_a_failed_request(deployed: Deployed) -> None:
    """Two agents of one host serve the same model: one answers while the other restarts."""
    settings = {"hosts": {"gpu1": {"agents": TWINS}}, "edge": WIDE}
    run = deploy("--limit", "gpu1", settings=settings)
    assert run.code == 0, run.output[-4000:]
    listing = "docker ps --no-trunc --format '{{.Names}} {{.ID}}'"
    before = set(lab_hosts.run("gpu1", listing).stdout.split())
    key = KeyStore(INVENTORY).client_key("default")
    address = deployed.settings["gpu1"].address
    with (
        # An agent that starts needs the processors that the other one would take for its answers.
        Traffic(
            f"https://{address}/tiny/v1", "twin", deployed.ca_file, [("a", key)], pause=0.5
        ) as tiny,
        Traffic(
            f"https://{address}/spare/v1", "twin", deployed.ca_file, [("b", key)], pause=0.5
        ) as spare,
    ):
        tiny.wait_for(20)
        keys("rotate-internal", LAB, "--hosts", "gpu1")
        run = deploy("--limit", "gpu1", settings=settings)
        assert run.code == 0, run.output[-4000:]
        time.sleep(2)
    after = set(lab_hosts.run("gpu1", listing).stdout.split())
    assert before & after == {"tiny", "spare"}, "both agents were recreated"
    failed = [item for item in tiny.asked + spare.asked if item.status != 200]
    assert failed == [], (len(failed), failed[:5])
    run = deploy("--limit", "gpu1", settings={"edge": WIDE})
    assert run.code == 0, run.output[-4000:]


@pytest.mark.nightly
def test_ten_thousand_keys_cost_a_request_nothing(deployed: Deployed) -> None:
    few = KeyStore(INVENTORY).read()
    key = KeyStore(INVENTORY).client_key("default")

    def fill(content: store_content.Content) -> store_content.Content:
        now = utc_now()
        clients = dict(few.clients)
        for number in range(10_000):
            clients[f"client-{number}"] = store_content.ClientRecord(
                created=now, keys=(store_content.new_key(now, timedelta(days=30)),)
            )
        return content.model_copy(update={"clients": clients})

    medians: dict[str, list[float]] = {"few": [], "many": []}
    reload_times = {}
    for _ in range(2):
        for name, change in (("many", fill), ("few", lambda _: few)):
            KeyStore(INVENTORY).update(change)
            keys_deploy()
            started = time.monotonic()
            lab_hosts.run("gpu1", "nginx -t -q && systemctl reload nginx")
            reload_times[name] = time.monotonic() - started
            time.sleep(1)
            medians[name].append(latency(deployed, key))
    best = {name: min(found) for name, found in medians.items()}
    print(f"median per request: {best}, reload: {reload_times}")
    assert best["many"] < best["few"] * 1.1


def latency(deployed: Deployed, key: SecretStr, count: int = 1500) -> float:
    """Median seconds of an answer that the edge gives after looking up the key, and nobody else."""
    url = f"https://{deployed.settings['gpu1'].address}/tiny/v1/models"
    times = []
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        for _ in range(count):
            started = time.perf_counter()
            session.get(url, timeout=10, verify=str(deployed.ca_file))
            times.append(time.perf_counter() - started)
    return statistics.median(times)
