"""Polling hosts, and showing their answers."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from datetime import datetime

import gevent
from rich.console import Console

from vllm_hosts.agents.chosen import Chosen
from vllm_hosts.connect.connections import ask_host
from vllm_hosts.errors import HostError
from vllm_hosts.text import clean
from vllm_hosts.top.draw import View, picture
from vllm_hosts.top.poll import Doing
from vllm_hosts.top.sample import HostSample
from vllm_hosts.top.terminal import keys

#: Seconds in which a host must answer, connecting included.
_LIMIT = 30.0
#: Seconds between two drawings, and between two looks of `--once`.
_DRAW_EVERY = 0.5
_APART = 1.0


class Watch:
    """What is known of every host, kept up to date while ``begin`` was called."""

    def __init__(self, chosen: Chosen) -> None:
        self._chosen = chosen
        self.views: dict[str, View] = {host: View() for host in chosen.agents}

    def poll(self, host: str) -> None:
        """Ask one host once. What goes wrong is shown, and stops nothing."""
        view = self.views[host]
        try:
            now = self._chosen.connections.at(host, lambda: self._ask(host), limit=_LIMIT)
        except Exception as error:
            # Whatever it is: the other hosts continue, and this one is reconnected to.
            self._chosen.connections.drop(host)
            words = str(error) if isinstance(error, HostError) else clean(repr(error))
            self.views[host] = replace(view, problem=words)
            return
        self.views[host] = View(before=view.now, now=now)

    def poll_twice(self) -> None:
        """Ask every host twice, all at the same time."""

        def twice(host: str) -> None:
            self.poll(host)
            gevent.sleep(_APART)
            if self.views[host].problem is None:
                self.poll(host)

        gevent.joinall([gevent.spawn(twice, host) for host in self.views], raise_error=True)

    def begin(self, interval: float) -> list[gevent.Greenlet]:
        """Ask every host again and again; a slow one slows no other."""

        def on(host: str) -> None:
            while True:
                self.poll(host)
                gevent.sleep(interval)

        return [gevent.spawn(on, host) for host in self.views]

    def _ask(self, host: str) -> HostSample:
        ports = {agent.name: agent.port for agent in self._chosen.settings[host].agents}
        return ask_host(Doing, ports=ports)


def live(chosen: Chosen, title: str, interval: float) -> None:
    """Draw on a screen of its own until somebody quits."""
    watch = Watch(chosen)
    connections = chosen.connections
    asking = connections.where_somebody_types(watch.views)
    connections.each(asking, lambda host: None, limit=_LIMIT)
    # Nothing may write between the lines.
    logging.disable(logging.CRITICAL)
    console = Console(highlight=False)
    with keys(sys.stdin.fileno()) as pressed, console.screen() as screen:
        jobs = watch.begin(interval)
        try:
            while True:
                right = f"{datetime.now().astimezone():%H:%M:%S}  q quits"
                screen.update(picture(watch.views, title, right, console.size.height))
                if pressed.quits(_DRAW_EVERY):
                    break
        finally:
            gevent.killall(jobs, block=False)
