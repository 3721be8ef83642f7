"""Stands in for GPU hosts with vLLM behind a gateway, for load only: their port for gateways.

An nginx with Lua, since a Python that speaks TLS to thousands would take the processor from what is
measured. It wants a certificate of the CA as hosts do, tells agents apart by the name in the
handshake, answers `GET /pulse` and chat completions, whole and streamed, and counts per agent.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.unit.real_nginx import environment, modules, program

#: A host: its address and port, and the files of its certificate and key.
Host = tuple[str, int, str, str]

_LUA = """
local counts = ngx.shared.counts
local agent = (ngx.var.ssl_server_name or "unknown"):match("^(.-)%.vllm%-hosts%.") or "unknown"
counts:incr("total " .. agent, 1, 0)
local now = counts:incr("now " .. agent, 1, 0)
if now > (counts:get("most " .. agent) or 0) then
    counts:set("most " .. agent, now)
end
ngx.ctx.agent = agent
ngx.req.read_body()
local body = ngx.req.get_body_data() or ""
local tokens = tonumber(body:match('"max_tokens"%s*:%s*(%d+)')) or 1
local model = body:match('"model"%s*:%s*"([^"]*)"') or ""
local usage = '"usage": {"prompt_tokens": 1, "completion_tokens": ' .. tokens .. "}"
local id = "chatcmpl-" .. (ngx.var.http_x_request_id or "unknown")
local head = '{"id": "' .. id .. '", "model": "' .. model .. '", '
if not body:find('"stream"%s*:%s*true') then
    local text = ("word "):rep(tokens)
    local choices = '"choices": [{"message": {"content": "' .. text .. '"}, "index": 0}], '
    local answer = head .. choices .. usage .. "}"
    ngx.header.content_type = "application/json"
    ngx.header.content_length = #answer
    ngx.print(answer)
    return
end
ngx.header.content_type = "text/event-stream"
local event = "data: " .. head .. '"choices": [{"delta": {"content": "word "}, "index": 0}]}\\n\\n'
for number = 1, tokens do
    if number > 1 then
        ngx.sleep(INTERVAL)
    end
    if not ngx.print(event) then
        return
    end
    ngx.flush()
end
if body:find('"include_usage"%s*:%s*true') then
    ngx.print("data: " .. head .. '"choices": [], ' .. usage .. "}\\n\\n")
end
ngx.print("data: [DONE]\\n\\n")
"""
_ENDED = """
if ngx.ctx.agent then
    ngx.shared.counts:incr("now " .. ngx.ctx.agent, -1)
end
"""
_COUNTED = """
local counts, lines = ngx.shared.counts, {}
for _, key in ipairs(counts:get_keys(0)) do
    local what, agent = key:match("^(%S+) (.*)$")
    if what ~= "now" then
        lines[#lines + 1] = key .. " " .. counts:get(key)
        counts:delete(key)
    end
end
ngx.print(table.concat(lines, "\\n"))
"""


@dataclass(frozen=True)
class StandIns:
    """They serve until the end of ``serving``."""

    socket: Path
    process: subprocess.Popen[bytes]

    def counts(self) -> dict[str, tuple[int, int]]:
        """By agent, its requests since the last time, and how many at most at the same time."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(60)
            asking.connect(str(self.socket))
            asking.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = asking.makefile("rb").read().decode()
        seen = {}
        for line in said.partition("\r\n\r\n")[2].splitlines():
            what, agent, number = line.split(" ")
            seen[what, agent] = int(number)
        return {
            agent: (number, seen.get(("most", agent), 0))
            for (what, agent), number in seen.items()
            if what == "total"
        }


def _conf(folder: Path, hosts: Sequence[Host], ca_file: Path, interval: float) -> str:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    servers = "".join(
        f"server {{ listen {address}:{port} ssl backlog=4096; ssl_certificate {certificate};"
        f" ssl_certificate_key {key}; include {folder}/host.conf; }}\n"
        for address, port, certificate, key in hosts
    )
    (folder / "host.conf").write_text(
        f"location = /pulse {{ return 200 ok; }}\nlocation / {{ content_by_lua_file"
        f" {folder}/answer.lua; log_by_lua_file {folder}/ended.lua; }}\n"
    )
    (folder / "answer.lua").write_text(_LUA.replace("INTERVAL", str(interval)))
    (folder / "ended.lua").write_text(_ENDED)
    (folder / "counted.lua").write_text(_COUNTED)
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""{modules()}{user} worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
worker_rlimit_nofile {files}; events {{ worker_connections {files - 500}; multi_accept on; }}
http {{
{temporary} access_log off; lua_shared_dict counts 10m; keepalive_requests 1000000;
keepalive_timeout 600s; client_body_buffer_size 1m; postpone_output 0; default_type text/plain;
ssl_protocols TLSv1.3; ssl_verify_client on; ssl_verify_depth 1; ssl_client_certificate {ca_file};
ssl_session_cache shared:load:10m; ssl_session_timeout 1h; ssl_session_tickets off;
{servers}server {{ listen unix:{folder}/counts.sock;
    location / {{ content_by_lua_file {folder}/counted.lua; }} }}
}}
"""


@contextmanager
def serving(
    folder: Path, hosts: Sequence[Host], ca_file: Path, interval: float
) -> Iterator[StandIns]:
    """Serve as these hosts.

    :param folder: an empty one, for what nginx needs.
    :param interval: seconds between two tokens of a stream.
    """
    conf = folder / "nginx.conf"
    conf.write_text(_conf(folder, hosts, ca_file, interval))
    process = subprocess.Popen(
        [program("nginx"), "-c", str(conf), "-e", str(folder / "error.log"), "-g", "daemon off;"],
        env=environment(),
    )
    found = StandIns(folder / "counts.sock", process)
    try:
        deadline = time.monotonic() + 30
        while not found.socket.exists():
            assert process.poll() is None, (folder / "error.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the stand-ins do not come up"
            time.sleep(0.1)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
