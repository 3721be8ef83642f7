"""What Docker is asked of containers, and every value that is read of its answer."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest

from tests.unit.fakes import inspect_line, inspected
from vllm_hosts.host.containers import (
    BRIEFLY,
    CHECKS,
    INSPECT,
    Container,
    named,
    published,
    read,
    unchecked,
)

DIGEST = f"sha256:{'a' * 64}"
STARTED = datetime(2026, 11, 25, 7, 1, 2, tzinfo=UTC)
ENDED = datetime(2026, 11, 25, 8, 0, 0, tzinfo=UTC)


def test_what_is_asked_is_what_is_read() -> None:
    """As the template of a container with, and without, a health check."""
    labels = {"project": "project", "service": "service", "hash": "config-hash"}
    wanted = {
        "name": ".Name", "id": ".ID", "state": ".State.Status", "health": ".State.Health.Status",
        "started": ".State.StartedAt", "finished": ".State.FinishedAt",
        "exit_code": ".State.ExitCode", "oom_killed": ".State.OOMKilled", "error": ".State.Error",
        "restarts": ".RestartCount", "image": ".Config.Image", "image_id": ".Image",
        "command": ".Config.Cmd",
        **{
            name: f'(index .Config.Labels "com.docker.compose.{label}")'
            for name, label in labels.items()
        },
    }  # fmt: skip
    assert set(wanted) == set(inspected("one"))
    health = re.compile(r"\{\{if \.State\.Health\}\}(.*)\{\{else\}\}null\{\{end\}\}")
    assert len(health.findall(INSPECT)) == 1
    plain = health.sub(r"\1", INSPECT)
    assert json.loads(re.sub(r"\{\{(?:json )?(.*?)\}\}", lambda m: json.dumps(m[1]), plain)) == (
        wanted
    )
    # Numbers and switches are JSON as they are; all that may hold a quote is made so.
    assert len(re.findall(r"\{\{json ", plain)) == len(wanted) - 3


def test_every_value_is_read() -> None:
    line = inspect_line(
        "qwen", "exited", "unhealthy", exit_code=137, oom_killed=True, error="no GPU", restarts=3,
        image="vllm:1", image_id=DIGEST, command=["org/model", "--x"], service="qwen", hash="abc",
    )  # fmt: skip
    assert list(read([line])) == [
        Container(
            "qwen", "exited", "unhealthy", STARTED, ENDED, 137, True, "no GPU", 3, "f" * 64,
            "vllm:1", DIGEST, "org/model", "vllm", "qwen", "abc",
        )
    ]  # fmt: skip


def test_what_there_is_none_of() -> None:
    line = inspect_line("qwen", health=None, image=None, command=None, oom_killed=None)
    [one] = read([line])
    assert (one.health, one.image, one.model, one.oom_killed) == (None, None, None, False)
    # The year 1 is Docker's word for never.
    assert (one.started, one.finished) == (STARTED, None)


def test_one_that_is_not_there_says_nothing_of_itself() -> None:
    found = named([inspect_line("two")], ["one", "two"])
    assert list(found) == ["one", "two"]
    one = found["one"]
    assert one == Container(
        "one", "absent", None, None, None, 0, False, "", 0, "", None, "", None, "", "", ""
    )
    assert (one.exists, one.running, one.up, one.ours) == (False, False, False, False)
    assert found["two"].exists and found["two"].ours


@pytest.mark.parametrize(
    ("state", "since", "code"),
    [
        ("running", STARTED, None),
        ("paused", STARTED, None),
        ("exited", ENDED, 7),
        ("restarting", ENDED, 7),
        ("dead", ENDED, 7),
        ("absent", ENDED, None),
    ],
)
def test_since_when_and_how_it_ended(state: str, since: datetime, code: int | None) -> None:
    one = Container("one", state, None, STARTED, ENDED, 7)
    assert (one.since, one.ended_with, one.running) == (since, code, state == "running")


def test_text_of_a_container_is_shown_safely_and_no_longer_than_needed() -> None:
    long = "x" * 9000
    line = inspect_line(
        long, f"\x1b{long}", error=long, id=long, image_id=long, project=long, service=long,
        hash=long,
    )  # fmt: skip
    [one] = read([line])
    named_so = (one.name, one.project, one.service, one.config_hash)
    cut = [len(text.removesuffix(" ...")) for text in named_so]
    assert cut == [200, 200, 200, 200]
    cut = [len(text.removesuffix(" ...")) for text in (one.state, one.error, one.id, one.image_id)]
    assert cut == [40, 4000, 100, 100]
    assert "\x1b" not in one.state


def test_what_is_no_text_is_quoted() -> None:
    with pytest.raises(ValueError, match=r"^id of a container is 7$"):
        list(read([inspect_line("one", id=7)]))
    with pytest.raises(ValueError) as caught:
        list(read([inspect_line("one", id=["y" * 900])]))
    assert len(str(caught.value)) == len("id of a container is  ...") + 200


def test_the_last_port_is_one() -> None:
    assert published("0.0.0.0:65535->1/tcp") == {65535}
    assert published("0.0.0.0:65534-65535->1-2/tcp") == {65534, 65535}
    for shown in ("0.0.0.0:65536->1/tcp", "0.0.0.0:1-65536->1/tcp"):
        with pytest.raises(ValueError, match=f"^docker ps prints the port '{shown}'$"):
            published(shown)
    with pytest.raises(ValueError) as caught:
        published(f"{'z' * 900}->1/tcp")
    assert len(str(caught.value)) == len("docker ps prints the port ' ...'") + 200


def test_what_a_shell_compares() -> None:
    """A container without a health check has three words, too."""
    assert BRIEFLY.format() == (
        "{.State.Status} {if .State.Health}{.State.Health.Status}{else}-{end} {.State.StartedAt}"
    )


STUCK = "OCI runtime exec failed: exec failed: unable to start"


def checks(*said: str, name: str = "/qwen") -> str:
    """As Docker fills ``CHECKS``: a comma after each, and null at the end."""
    outer, inner = "{{if .State.Health}}", "{{range .State.Health.Log}}"
    each = CHECKS.partition(inner)[2].partition("{{end}}{{end}}")[0]
    logged = "".join(each.replace("{{json .Output}}", json.dumps(one)) for one in said)
    whole = f"{outer}{inner}{each}{{{{end}}}}{{{{end}}}}"
    assert whole in CHECKS
    return CHECKS.replace(whole, logged).replace("{{json .Name}}", json.dumps(name))


def test_checks_that_docker_cannot_start() -> None:
    assert unchecked([checks(*[STUCK] * 3), checks(name="/plain"), checks("", name="/new")]) == {
        "qwen": STUCK, "plain": "", "new": "",
    }  # fmt: skip
    # Three in a row are needed, the last ones count, and the words stand at the beginning.
    assert unchecked([checks(*[STUCK] * 2)]) == {"qwen": ""}
    assert unchecked([checks("", *[STUCK] * 3)]) == {"qwen": STUCK}
    assert unchecked([checks(*[STUCK] * 3, "")]) == {"qwen": ""}
    assert unchecked([checks(*[STUCK] * 2, f"curl: {STUCK}")]) == {"qwen": ""}
    # The newest is shown, and no more of it than a line.
    [said] = unchecked([checks(STUCK, STUCK, f"{STUCK}\x1b[2J{'x' * 400}")]).values()
    assert said == f"{STUCK}{'x' * (300 - len(STUCK))} ..."
    assert list(unchecked([checks(name="n" * 300)])) == [f"{'n' * 200} ..."]
