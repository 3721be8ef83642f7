"""A load on gateways while something happens to what is behind them, and what that did to it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from pydantic import SecretStr

from lab import hosts as lab_hosts
from tests.lab.deploys import ROOT
from tests.lab.fleet import CHAT, GPU_HOSTS
from tests.lab.fleet_load import Asked, Job

LOG = "var/log/vllm-hosts/access.log"
#: What Python runs.
PROGRAM: tuple[str, ...] = ("-m", "tests.lab.fleet_load")
#: Seconds in which clients finish what they have asked.
_ENDING = 120
#: Seconds until a host has logged what it answered.
_LOGGED = 3.0


class Front(Protocol):
    """Gateways, and a client that they know."""

    @property
    def urls(self) -> list[str]: ...
    @property
    def ca_file(self) -> Path: ...
    @property
    def client_key(self) -> SecretStr: ...


class Load:
    """Between enter and exit, clients ask; see ``fleet_load.Job`` for what can be chosen.

    :param warm: how many requests have to end before anything happens.
    """

    def __init__(self, fleet: Front, folder: Path, *, warm: int = 40, **job: Any) -> None:
        self._warm = warm
        self._out = folder / f"asked-{time.monotonic_ns()}"
        self._errors = self._out.with_suffix(".err")
        usual = {
            "out": str(self._out),
            "urls": fleet.urls,
            "ca_file": str(fleet.ca_file),
            "keys": [("default", fleet.client_key.get_secret_value())],
            "model": CHAT,
        }
        self._job = Job(**(usual | job))
        self._logs = HostLogs()
        self._program: subprocess.Popen[str] | None = None

    def __enter__(self) -> Load:
        with self._errors.open("w") as errors:
            self._program = subprocess.Popen(
                [sys.executable, *PROGRAM],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                text=True,
            )
        assert self._program.stdin
        self._program.stdin.write(json.dumps(asdict(self._job)))
        self._program.stdin.close()
        try:
            self.wait_for(self._warm)
        except BaseException:
            self._program.kill()
            self._program.wait()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._program
        self._program.terminate()
        try:
            self._program.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait()
            if error is None:
                raise AssertionError(f"requests did not end in {_ENDING} s") from None
        said = self._errors.read_text()
        assert error or not said, said[-3000:]

    @property
    def asked(self) -> list[Asked]:
        """The requests that ended, in the order in which they did."""
        text = self._out.read_text() if self._out.exists() else ""
        return [
            Asked(**json.loads(line)) for line in text.splitlines(keepends=True) if line[-1] == "\n"
        ]

    def wait_for(self, more: int, timeout: float = 60) -> None:
        """Go on until this many further requests were answered."""
        assert self._program
        goal = len(self.asked) + more
        deadline = time.monotonic() + timeout
        while (there := len(self.asked)) < goal:
            if (code := self._program.poll()) is not None:
                # It was told how many and how long.
                assert code == 0, self._errors.read_text()[-3000:]
                raise AssertionError(f"the load was over after {there} requests, {goal} are needed")
            assert time.monotonic() < deadline, (
                f"only {there - goal + more} of {more} requests in {timeout:.0f} s"
            )
            time.sleep(0.2)

    def wait_over(self, timeout: float) -> None:
        """Until all clients have asked as often as they were to."""
        assert self._program
        try:
            code = self._program.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{len(self.asked)} requests ended in {timeout:.0f} s") from None
        assert code == 0, self._errors.read_text()[-3000:]

    def of(self, client: str) -> list[Asked]:
        """One client's requests, in the order in which they began."""
        return sorted((one for one in self.asked if one.client == client), key=_began)

    @property
    def failed(self) -> list[Asked]:
        return [one for one in self.asked if one.failed]

    def hosts(self) -> dict[str, str]:
        """Which GPU host logged which request: all whole answers' are awaited."""
        return self._logs.of([one.id for one in self.asked if not one.failed])

    def answered_by(self, asked: Sequence[Asked] | None = None) -> Counter[str]:
        """How many of the whole answers came from which host."""
        found = self.hosts()
        whole = [one for one in (self.asked if asked is None else asked) if not one.failed]
        counts = Counter(found.get(one.id, "unknown") for one in whole)
        assert not counts["unknown"], (
            f"{counts['unknown']} of {len(whole)} answers have an id that no host logged, such as "
            + str(next(one for one in whole if one.id not in found))
        )
        return counts

    def assert_none_failed(self, *, kept: bool = True) -> None:
        """Every request got a whole answer.

        :param kept: gateways ended no connection that a client had kept either.
        """
        asked = self.asked
        assert not self.failed, _said(f"of {len(asked)} requests", self.failed)
        if kept:
            again = [one for one in asked if one.again]
            assert not again, _said(f"of {len(asked)} requests, sent twice,", again)
        print(f"{len(asked)} requests, none failed")

    def assert_only_begun_at(self, host: str) -> None:
        """Nothing failed but answers that had begun, at this host."""
        asked, failed = self.asked, self.failed
        early = [one for one in failed if not one.begun]
        assert not early, _said(f"of {len(asked)} requests, before an answer began,", early)
        found = self.hosts()
        elsewhere = [one for one in failed if found.get(one.id, host) != host]
        assert not elsewhere, _said(
            f"of {len(asked)} requests, at other hosts than {host},", elsewhere
        )
        again = [one for one in asked if one.again]
        assert not again, _said(f"of {len(asked)} requests, sent twice,", again)
        assert not self._logs.repeated(), f"twice to one host: {self._logs.repeated()[:5]}"
        assert self.answered_by()[host], f"{host} answered nothing: {self.answered_by()}"
        print(f"{len(asked)} requests, {len(failed)} failed, all of them answers of {host}'s")


class HostLogs:
    """What GPU hosts' edges log from now on. Their files are this machine's: no host has to run."""

    def __init__(self, hosts: Sequence[str] = GPU_HOSTS) -> None:
        self._files = {host: lab_hosts.root(host) / LOG for host in hosts}
        self._sizes = {host: _size(path) for host, path in self._files.items()}

    def entries(self, host: str) -> list[dict[str, Any]]:
        """One host's lines for requests that came through a gateway."""
        path = self._files[host]
        if not path.exists():
            return []
        with path.open(errors="replace") as file:
            file.seek(self._sizes[host] if _size(path) >= self._sizes[host] else 0)
            lines = [json.loads(line) for line in file if line.startswith("{") and line[-1] == "\n"]
        return [entry for entry in lines if entry.get("gateway")]

    def by_id(self) -> dict[str, str]:
        """Requests' ids, with the host that answered: one that was sent on had another before."""
        found: dict[str, str] = {}
        for host in self._files:
            for entry in self.entries(host):
                if entry["status"] == 200 or entry["request_id"] not in found:
                    found[entry["request_id"]] = host
        return found

    def of(self, ids: Collection[str]) -> dict[str, str]:
        """As ``by_id``. A request is logged a moment after its client has the answer."""
        deadline = time.monotonic() + _LOGGED
        while True:
            found = self.by_id()
            if set(ids) <= set(found) or time.monotonic() > deadline:
                return found
            time.sleep(0.2)

    def repeated(self) -> list[str]:
        """Ids of requests that one host was sent more than once."""
        return [
            request
            for host in self._files
            for request, count in Counter(one["request_id"] for one in self.entries(host)).items()
            if count > 1
        ]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _said(what: str, asked: Sequence[Asked]) -> str:
    lines = "\n  ".join(str(one) for one in sorted(asked, key=_began)[:8])
    return f"{len(asked)} {what} failed or were repeated:\n  {lines}"


def _began(one: Asked) -> float:
    return one.began
