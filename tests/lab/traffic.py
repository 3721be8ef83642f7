"""Clients that ask all the time, and what became of every one of their requests."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import requests
from pydantic import SecretStr
from requests.adapters import HTTPAdapter
from urllib3.util import Retry


@dataclass(frozen=True)
class Asked:
    """One request: who asked, when it began and ended, and its status; 0: it failed otherwise."""

    client: str
    began: float
    ended: float
    status: int
    why: str = ""


class Traffic:
    """Between enter and exit, asks with named keys from one thread each.

    Every third request is a stream, which must end as streams end.

    :param pause: seconds between two requests of a client, where the machine has other work too.
    """

    def __init__(
        self,
        url: str,
        model: str,
        ca_file: Path,
        clients: list[tuple[str, SecretStr]],
        *,
        pause: float = 0.0,
    ) -> None:
        self._pause = pause
        self._url = f"{url}/chat/completions"
        self._model = model
        self._ca_file = ca_file
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask_on, args=client) for client in clients]
        self.asked: list[Asked] = []

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def long_stream(self, key: SecretStr) -> threading.Thread:
        """Start one long answer. It is counted as of the client ``long stream`` when it ends."""

        def ask() -> None:
            with _session(key) as session:
                done = self._ask(session, "long stream", stream=True, tokens=900)
            with self._lock:
                self.asked.append(done)

        thread = threading.Thread(target=ask)
        thread.start()
        return thread

    def wait_for(self, count: int, timeout: float = 300) -> None:
        """Go on until this many requests were answered."""
        deadline = time.monotonic() + timeout
        while len(self.asked) < count:
            assert time.monotonic() < deadline, f"only {len(self.asked)} requests in {timeout} s"
            time.sleep(0.2)

    def of(self, client: str) -> list[Asked]:
        """What one client's requests came to, in the order in which they began."""
        return sorted((item for item in self.asked if item.client == client), key=began)

    def _ask_on(self, client: str, key: SecretStr) -> None:
        number = 0
        with _session(key) as session:
            while not self._stop.is_set():
                number += 1
                done = self._ask(session, client, stream=number % 3 == 0)
                with self._lock:
                    self.asked.append(done)
                # The edge refuses a source fifty times a second; several clients share this one.
                time.sleep(self._pause if done.status == 200 else max(self._pause, 0.25))

    def _ask(
        self, session: requests.Session, client: str, *, stream: bool, tokens: int = 8
    ) -> Asked:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": tokens,
            "stream": stream,
            "ignore_eos": True,
        }
        start = time.monotonic()
        try:
            # Said with each request: the environment outdoes what is said with the session.
            answer = session.post(self._url, json=body, timeout=60, verify=str(self._ca_file))
            status, text = answer.status_code, answer.text
        except requests.RequestException as error:
            return Asked(client, start, time.monotonic(), 0, repr(error))
        if status == 200:
            whole = text.rstrip().endswith("[DONE]") if stream else bool(json.loads(text)["usage"])
            if not whole:
                return Asked(client, start, time.monotonic(), 0, f"cut short: {text[-80:]!r}")
        return Asked(client, start, time.monotonic(), status, "" if status == 200 else text[:200])


def _session(key: SecretStr) -> requests.Session:
    """As OpenAI's client: a connection that was closed before an answer began is made again."""
    session = requests.Session()
    again = Retry(total=2, status=0, backoff_factor=0.1, allowed_methods=None)
    session.mount("https://", HTTPAdapter(max_retries=again))
    session.headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    return session


def began(item: Asked) -> float:
    return item.began
