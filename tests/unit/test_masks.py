"""Secrets that people type into files on hosts."""

from __future__ import annotations

import time

import pytest

from vllm_hosts.data import DATA
from vllm_hosts.settings.masks import MASK, masked

SECRET = "Zx9-q7Kfm2"


@pytest.mark.parametrize(
    "line",
    [
        f"      MY_API_KEY: {SECRET}",
        f'      "password": "{SECRET}",',
        f"      - DB_PASSWORD={SECRET}",
        f"      - --api-key={SECRET}",
        f'    command: ["--api-key", "{SECRET}"]',
        f"    command: serve --api-key {SECRET} --port 8000",
        f"proxy_set_header Authorization 'Bearer {SECRET}';",
        f"proxy_set_header Authorization Basic {SECRET};",
        f"      HTTPS_PROXY: http://someone:{SECRET}@proxy.example.com:3128",
        f"x-secret = {SECRET}",
    ],
)
def test_what_a_name_calls_a_secret_is_masked(line: str) -> None:
    [shown] = masked(line)
    assert SECRET not in shown
    assert MASK in shown
    assert shown[:8] == line[:8]


@pytest.mark.parametrize(
    "secret",
    ["hf_" + "aB3" * 11, "sk-" + "x" * 24, "ghp_" + "1a" * 18, "AKIA" + "QWERTY12345678",
     "aGVsbG8gd29ybGQ0aGVsbG8gd29ybGQ0aGVsbG8"],
)  # fmt: skip
def test_what_looks_like_a_secret_is_masked_anywhere(secret: str) -> None:
    assert masked(f"      - {secret} # mine") == [f"      - {MASK} # mine"]


def test_the_value_of_an_option_stands_in_the_next_line() -> None:
    lines = ["      - --api-key", f"      - {SECRET}", f"      - {SECRET}-shown"]
    assert masked("\n".join(lines)) == [lines[0], f"      - {MASK}", lines[2]]
    lines = ['      - "--hf-token"', f'      - "{SECRET}"']
    assert masked("\n".join(lines)) == [lines[0], f'      - "{MASK}"']


def test_a_private_key_is_masked_whole() -> None:
    kind = "EC PRIVATE" + " KEY"
    first, last = f"-----BEGIN {kind}-----", f"-----END {kind}-----"
    text = "\n".join(["a", first, "abc", "def", last, "b"])
    assert masked(text) == ["a", first, MASK, MASK, last, "b"]


@pytest.mark.parametrize(
    "line",
    [
        "      VLLM_API_KEY: ${VLLM_API_KEY_ONE:?}",
        '      - "--max-num-batched-tokens"',
        "    # Compose leaves out env_file, and a changed key would go unnoticed.",
        "    ssl_certificate_key /etc/vllm-hosts/tls/key.pem;",
        "    proxy_cache_key $uri;",
        '    image: "vllm/vllm-openai@sha256:' + "0a" * 32 + '"',
        '      - "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"',
        '      - "--revision"',
        "      - " + "0f" * 20,
        "      SOME_TOKEN: 1",
        "      TORCHINDUCTOR_CACHE_DIR: /cache/inductor",
    ],
)
def test_what_is_no_secret_is_shown(line: str) -> None:
    assert masked(line) == [line]


def test_nothing_of_our_own_templates_is_masked() -> None:
    """Except in those that hold keys, in sentences with the word, and in what no host gets."""
    keys = {"secrets/env.j2", "client_keys/clients.map.j2", "report/report.html.j2"}
    templates = DATA.parent / "templates"
    for path in sorted(templates.rglob("*.j2")):
        name = str(path.relative_to(templates))
        if name not in keys and not name.startswith("site/"):
            lines = [
                line
                for line in path.read_text().splitlines()
                # systemd's word, with a path behind it.
                if not line.lstrip().startswith(("#", "{#", "LoadCredential="))
            ]
            assert masked("\n".join(lines)) == lines, path


@pytest.mark.parametrize(
    "text",
    ["a" * 262_144, "http" * 65_536, "token" * 52_000, "-----BEGIN " * 24_000, "= " * 131_072,
     "a.b-c\n" * 43_000, "Aa1" * 87_000, "://:@" * 52_000],
)  # fmt: skip
def test_whatever_a_host_has_costs_little(text: str) -> None:
    started = time.process_time()
    lines = masked(text) + masked(text.replace("\n", " "))
    assert time.process_time() - started < 5
    assert max(map(len, lines)) < 500


def test_a_long_line_is_not_cut_within_a_secret() -> None:
    for room in range(380, 400):
        secret = "hf_" + "aB3" * 11
        [line] = masked("x" * room + " " + secret)
        assert line == "x" * room + " ..."


def test_as_much_of_a_line_as_is_read() -> None:
    assert masked("x" * 400) == ["x" * 400]
    assert masked("x " * 200 + "y") == ["x " * 200 + "..."]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("url: https://me:word@example.com/x", ["url: https://*MASKED*@example.com/x"]),
        ("- --api-key\n- 8", ["- --api-key", "- 8"]),
        ("- --api-key\n- word other", ["- --api-key", "- *MASKED* other"]),
    ],
)
def test_only_the_secret_is_masked(text: str, lines: list[str]) -> None:
    assert masked(text) == lines
