"""What an attacker of each rank tries on a host, rebuilt: all of it ends at a wall."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from lab import hosts as lab_hosts
from tests.lab.asked import asked
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import changes, command, deploy
from tests.lab.sabotage.parts import HEALTHY, IMAGE

#: Whatever somebody sends to this port of the host itself ends up in a file.
_LISTENER = """
use IO::Socket::INET;
my $server = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1:8001') or exit 1;
while (my $client = $server->accept) {
    sysread($client, my $said, 65536); open(my $file, '>>', '/tmp/stolen'); print $file $said;
    close($file);
    print $client "HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nforged"; close($client);
}
"""
#: As somebody with a login and nothing else.
_NOBODY = "setpriv --reuid 65534 --regid 65534 --clear-groups"


class TestALocalUser:
    """Has a login on the host, and no rights."""

    @pytest.fixture
    def squatted(self, deployed: Deployed) -> Iterator[None]:
        """The agent is down, and a local user listens on the port that it publishes."""
        script = shlex.quote(_LISTENER)
        lab_hosts.run(
            "gpu1",
            "docker stop -t 1 tiny >/dev/null; rm -f /tmp/stolen;"
            f" systemd-run -q --unit lab-squatter --uid 65534 perl -e {script}"
            " && timeout 30 sh -c 'until ss -Hltn sport = :8001 | grep -q .; do sleep 0.2; done'",
            timeout=180,
        )
        yield
        lab_hosts.run(
            "gpu1",
            "systemctl stop lab-squatter; rm -f /tmp/stolen; docker start tiny" + HEALTHY,
            timeout=400,
        )

    def test_who_takes_an_agent_s_port_gets_no_key_and_no_prompt(
        self, deployed: Deployed, squatted: None
    ) -> None:
        for _ in range(3):
            answer = asked(deployed, "/tiny/v1/models")
            assert answer.status_code == 503
            assert "forged" not in answer.text
        # The trap works: root itself reaches it.
        lab_hosts.run(
            "gpu1",
            "timeout 5 bash -c 'echo by-root >/dev/tcp/127.0.0.1/8001';"
            " timeout 30 sh -c 'until [ -s /tmp/stolen ]; do sleep 0.2; done'",
        )
        stolen = lab_hosts.run("gpu1", "cat /tmp/stolen").stdout
        assert stolen == "by-root\n"

    def test_nobody_but_root_reaches_an_agent(self, deployed: Deployed) -> None:
        address = deployed.settings["gpu1"].cell("tiny").address
        for place in (f"{address}/8000", "127.0.0.1/8001"):
            knock = f"timeout 5 bash -c '</dev/tcp/{place}' 2>/dev/null && echo in || echo out"
            assert lab_hosts.run("gpu1", f"{_NOBODY} {knock}").stdout == "out\n", place
            assert lab_hosts.run("gpu1", knock).stdout == "in\n", place


class TestAnAgentThatWasTakenOver:
    """Runs code of an attacker, as the agent's user, with all that the agent has."""

    def test_it_finds_nothing_to_write_but_its_own_folder(self, deployed: Deployed) -> None:
        tried = lab_hosts.run(
            "gpu1",
            "docker exec tiny sh -c 'for at in / /models /models/hub /srv/models/tiny-qwen2 /usr"
            " /cache /tmp; do touch $at/lab-x 2>/dev/null && echo $at; done; rm -f /cache/lab-x"
            " /tmp/lab-x'; true",
        ).stdout
        assert tried.split() == ["/cache", "/tmp"]

    def test_code_in_its_home_runs_in_no_agent(self, deployed: Deployed) -> None:
        lab_hosts.run(
            "gpu1",
            "docker exec tiny sh -c 'site=$(python3 -c \"import site;"
            ' print(site.getusersitepackages())"); mkdir -p $site;'
            ' echo "print(\\"taken over\\")" >$site/usercustomize.py\'',
        )
        try:
            for agent in ("tiny", "spare"):
                said = lab_hosts.run("gpu1", f"docker exec {agent} python3 -c 'print(1)'").stdout
                assert said == "1\n"
            # The trap works where the environment lets it.
            trap = "docker exec -e PYTHONNOUSERSITE= tiny python3 -c 'print(1)'"
            assert "taken over" in lab_hosts.run("gpu1", trap).stdout
        finally:
            lab_hosts.run("gpu1", "docker exec tiny rm -rf /cache/home/.local")

    def test_it_reaches_no_metadata_of_a_cloud(self, deployed: Deployed) -> None:
        """Nor does what fetches models, which reaches the rest of the world, and not the host."""
        metadata, neighbour = "169.254.169.254", lab_hosts.host("neighbour").ipv4
        own = deployed.settings["gpu1"].address
        knock = (
            "import socket, sys\nfor place in sys.argv[1:]:\n"
            "    try: socket.create_connection((place, 22), 3).close(); print(place)\n"
            "    except OSError: pass\n"
        )
        words = f"python3 -c {shlex.quote(knock)} {metadata} {neighbour} {own}"
        lab_hosts.run("neighbour", f"ip addr add {metadata}/32 dev lo")
        lab_hosts.run(
            "gpu1",
            f"ip route add {metadata}/32 via {neighbour}; docker network create"
            " -o com.docker.network.bridge.name=vllm-fetch lab-fetch >/dev/null",
        )
        try:
            trap = f"timeout 5 bash -c '</dev/tcp/{metadata}/22' && echo in"
            assert lab_hosts.run("gpu1", trap).stdout == "in\n"
            assert lab_hosts.run("gpu1", f"docker exec tiny {words}").stdout == ""
            fetching = f"docker run --rm -q --network lab-fetch --entrypoint env {IMAGE} {words}"
            assert lab_hosts.run("gpu1", fetching, timeout=60).stdout == f"{neighbour}\n"
        finally:
            lab_hosts.run("neighbour", f"ip addr del {metadata}/32 dev lo")
            lab_hosts.run("gpu1", f"ip route del {metadata}/32; docker network rm lab-fetch")

    def test_the_other_agent_has_another_key(self, deployed: Deployed) -> None:
        digests = [
            lab_hosts.run(
                "gpu1", f"docker exec {agent} sh -c 'echo $VLLM_API_KEY' | sha256sum"
            ).stdout
            for agent in ("tiny", "spare")
        ]
        assert len(set(digests)) == 2


@pytest.mark.nightly
def test_a_host_of_an_older_version_with_traps_in_its_cache_is_healed(deployed: Deployed) -> None:
    """An agent of the old kind could write all of the cache, and left links and FIFOs there."""
    lab_hosts.run(
        "gpu1",
        # Agents of that kind had folders elsewhere, and are made anew.
        "docker rm -f tiny spare >/dev/null; mkdir -m 700 /root/victim"
        " && echo secret >/root/victim/file && chmod 600 /root/victim/file;"
        " cd /var/lib/vllm && mv agents /root/agents && mv huggingface /root/huggingface"
        " && ln -s /root/victim huggingface && ln -s /root/victim agents"
        " && chown -h 64101:64101 . huggingface agents && chmod 750 .",
    )
    before = lab_hosts.run("gpu1", "stat -c '%n %a %u:%g' /root/victim /root/victim/file").stdout
    run = deploy("--limit", "gpu1")
    assert run.code == 0, run.output[-5000:]
    after = lab_hosts.run("gpu1", "stat -c '%n %a %u:%g' /root/victim /root/victim/file").stdout
    assert after == before
    assert lab_hosts.run("gpu1", "ls /root/victim").stdout == "file\n"
    asides = lab_hosts.run("gpu1", "ls -d /var/lib/vllm/*.untrusted-*").stdout.split()
    assert len(asides) == 2
    # Weights that an agent has changed in place are fetched again.
    weights = "$(find /var/lib/vllm/huggingface/hub/models--lab--tiny/blobs -size +100k)"
    good = lab_hosts.run("gpu1", f"sha256sum {weights}").stdout
    lab_hosts.run(
        "gpu1",
        "docker rm -f tiny spare >/dev/null;"
        f" printf x | dd of={weights} bs=1 seek=5000 conv=notrunc 2>/dev/null;"
        " chown -R 64101:64101 /var/lib/vllm; chmod 750 /var/lib/vllm;"
        " mkfifo /var/lib/vllm/huggingface/hub/models--lab--tiny/refs/lab;"
        " rm -f /var/lib/vllm/huggingface/hub/models--lab--tiny/refs/v1;"
        " mkfifo /var/lib/vllm/huggingface/hub/models--lab--tiny/refs/v1",
    )
    drifted = command("vllm-hosts", "drift", "inventory/lab.py", "--host", "gpu1", timeout=120)
    assert drifted.code == 3, drifted.output
    run = deploy("--limit", "gpu1")
    assert run.code == 0, run.output[-5000:]
    assert lab_hosts.run("gpu1", f"sha256sum {weights}").stdout == good
    assert asked(deployed, "/spare/v1/models").status_code == 200
    assert changes(deploy("--limit", "gpu1")) == {"gpu1": 0}
    lab_hosts.run(
        "gpu1", "rm -rf /root/victim /root/agents /root/huggingface /var/lib/vllm/*.untrusted-*"
    )


@pytest.mark.parametrize("host", HOSTS)
def test_nothing_is_left_of_what_fetched_models(deployed: Deployed, host: str) -> None:
    """Nothing of it is left behind."""
    left = lab_hosts.run(host, "docker network ls --format '{{.Name}}'; docker ps -a").stdout
    assert "vllm-fetch" not in left and "vllm-hosts-fetch" not in left
