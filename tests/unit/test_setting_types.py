"""What single values of settings may be: many of them end up in files of nginx, apt and shells."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from vllm_hosts.settings import types
from vllm_hosts.settings.types import AcrossError, Section, in_bytes

#: By type: values that are taken as they are, values that are not, and what is said of these.
WORDS: dict[str, tuple[list[str], list[str], str]] = {
    "HttpsUrl": (
        [
            "https://example.org/a.b/%20+,=@~",
            "http://[2001:db8::1]:8080/x",
            "https://a",
            "http://x_",
        ],
        [
            "",
            "ftp://example.org",
            "https://",
            "https://example.org/",
            "https://example.org.",
            "https://example.org:",
            "HTTPS://example.org",
            "xhttps://example.org",
            "https://example.org/$(id)",
            "https://example.org/a b",
            "https://example.org/a\n",
            "https://example.org/'x",
            "https://example.org/x;y",
            "https://example.org/#x",
            "https://example.org/?x",
            'https://example.org/"x',
        ],
        "is not a URL such as 'https://example.org/archive', made of letters, digits and"
        " . _ ~ : / @ % + , = [ ] -",
    ),
    "Fingerprint": (
        ["0123456789ABCDEF0123456789ABCDEF01234567"],
        ["0" * 39, "0" * 41, "a" * 40, "G" * 40, "", "0" * 40 + "\n"],
        "is not an OpenPGP fingerprint of 40 upper-case hexadecimal digits",
    ),
    "AbsolutePath": (
        ["/srv", "/srv/models/a-b_c.d@e+f", "/.a", "/..a/...", "/a./b.."],
        [
            *("", "/", "srv", "/srv/", "//srv", "/srv//x", "/a b", "/a\n", "/$x", "/a'b", "/a;b"),
            *("~/x", "/.", "/..", "/a/./b", "/a/../b", "/a/..", "/./a"),
        ],
        "is not an absolute path made of letters, digits and . _ @ + -, without the parts . and ..",
    ),
    "Size": (
        ["1k", "32m", "10g"],
        ["", "0m", "032m", "32", "32M", "m", "1.5g", "-1g", "1g;", "1g\n", "1 g"],
        "is not a size such as '32m' or '1g'",
    ),
    "HostName": (
        [
            "a",
            "gpu1.example.com",
            "GPU1",
            "a--b",
            "192.0.2.1",
            "2001:db8::1",
            "::",
            "::ffff:192.0.2.1",
        ],
        [
            "",
            "-a",
            "a-",
            "a.",
            ".a",
            "a..b",
            "a_b",
            "a b",
            "a:80",
            "cafe:443",
            ":80",
            "12:34:56",
            "1::2::3",
            "::192.0.2.300",
            "192.0.2.300",
            "192.0.2",
            "a/b",
            "a\n",
            "*.example.com",
            "[::1]",
            "a;b",
            "192.0.2.0/24",
        ],
        "is not a DNS name or an IP address",
    ),
    "InterfaceName": (
        ["wg0", "eth0.5", "a", "br-x_y", "0" * 15],
        ["", ".a", "-a", "0" * 16, "wg 0", "wg0\n", "a/b", 'a"b', "wg*"],
        "is not a network interface such as 'wg0'",
    ),
    "DnsName": (
        ["images.example.com", "a.b", "1.c2", "a-b.c-d", "a" * 63 + "." + "b" * 63],
        [
            "",
            "localhost",
            "Example.com",
            "example.com.",
            "192.0.2.1",
            "a..b",
            "-a.b",
            "a-.b",
            "a.b-",
            "a.-b",
            "a." + "b" * 64,
            "a" * 64 + ".b",
            "a.b\n",
            "a_b.c",
            "*.example.com",
        ],
        "is not a DNS name in lower case such as 'images.example.com'",
    ),
    "ImageReference": (
        [
            "vllm/vllm-openai:v0.33.0",
            "a",
            "registry.example:5000/x/y--z__a.b:T_a.g-1",
            "x@sha256:" + "a" * 64,
            "x/y:1@sha256:" + "0" * 64,
            "x:" + "1" * 128,
        ],
        [
            "",
            "x:",
            "x:.a",
            "x:" + "1" * 129,
            "x@sha256:" + "a" * 63,
            "x@sha256:" + "A" * 64,
            "x@md5:" + "a" * 64,
            "x/Y",
            "x//y",
            "x/-y",
            "-x",
            "x y",
            "x\n",
            "$(id)",
            "x:1:2:3",
            "https://x/y",
        ],
        "is not an image reference such as 'vllm/vllm-openai:v0.33.0'",
    ),
    "EnvName": (
        ["A", "_x", "HF_TOKEN2"],
        ["", "2A", "A-B", "A B", "A=B", "A\n", "A$"],
        "is not the name of an environment variable",
    ),
    "UserGroup": (
        ["64101:64101", "0:0", "4294967294:10"],
        [
            "",
            "00:1",
            "0000:1",
            "01:1",
            "1:01",
            "1:00",
            "1:12345678901",
            "64101",
            ":1",
            "1:",
            "root:root",
            "1:1:1",
            "1:1\n",
            "-1:1",
        ],
        "is not a numeric user and group such as '64101:64101'",
    ),
    "UserName": (
        ["alice", "_apt", "a-b_c9"],
        ["", "Alice", "9a", "-a", "a b", "a\n", "a.b", "a$", "alice,root", "alice *"],
        "is not the name of a user such as 'alice'",
    ),
    "DebianVersion": (
        ["1.20.1-1", "1:2.0~rc1+b2", "0", "5"],
        ["", "v1", "-1", "1 2", "1\n", "1_2", "1*", "1/2"],
        "is not a package version such as '1.20.1-1'",
    ),
    "Origin": (
        [
            "https://app.example.com",
            "http://localhost:3000",
            "https://[2001:db8::1]:8443",
            "https://192.0.2.1",
            "https://a:99999",
        ],
        [
            "",
            "*",
            "null",
            "app.example.com",
            "https://App.example.com",
            "https://app.example.com/",
            "https://app.example.com/x",
            "https://app.example.com:0",
            "https://app.example.com:",
            "https://a:123456",
            "https://*.example.com",
            "https://a b",
            "https://a\n",
            'https://a"',
            "https://-a",
            "https://a..b",
            "https://u@a",
            "ftp://a",
        ],
        "is not an origin such as 'https://app.example.com', in lower case and without a path",
    ),
}


def taken(name: str, value: object) -> Any:
    return TypeAdapter(getattr(types, name)).validate_python(value)


def refused(name: str, value: object) -> str:
    with pytest.raises(ValidationError) as error:
        taken(name, value)
    return error.value.errors()[0]["msg"].removeprefix("Value error, ")


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, (good, *_) in WORDS.items() for v in good]
)
def test_what_is_taken(name: str, value: str) -> None:
    assert taken(name, value) == value


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, (_, bad, _) in WORDS.items() for v in bad]
)
def test_what_is_refused(name: str, value: str) -> None:
    said = refused(name, value)
    assert said.endswith(WORDS[name][2]), said
    assert said.startswith(("'", '"')), said


def test_a_section_takes_nothing_that_it_does_not_know_and_stays_as_it_is() -> None:
    class One(Section):
        number: int = 1

    wrong: list[dict[str, object]] = [{"numbre": 2}, {"number": "2"}, {"number": True}]
    for values in wrong:
        with pytest.raises(ValidationError):
            One.model_validate(values)
    with pytest.raises(ValidationError, match="frozen"):
        One().number = 2  # type: ignore[misc]


def test_a_mistake_between_sections_says_where_it_is_to_be_corrected() -> None:
    error = AcrossError("a is b", section="edge")
    assert (str(error), error.section) == ("a is b", "edge")


# Networks and addresses.


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("10.0.0.0/8", IPv4Network("10.0.0.0/8")),
        ("192.0.2.7", IPv4Network("192.0.2.7/32")),
        ("2001:db8::/32", IPv6Network("2001:db8::/32")),
        (IPv4Network("10.0.0.0/8"), IPv4Network("10.0.0.0/8")),
        (IPv6Network("::1/128"), IPv6Network("::1/128")),
    ],
)
def test_networks(value: object, wanted: object) -> None:
    assert taken("Cidr", value) == wanted


@pytest.mark.parametrize(
    "value", ["10.0.0.1/8", "10.0.0.0/33", "", "any", "10.0.0.0/8 ", 167772160, b"\n\0\0\0", None]
)
def test_no_typo_opens_a_wider_range(value: object) -> None:
    """Nor does a number, which Python would take for an address."""
    assert refused("Cidr", value) == (
        f"{value!r} is not a network; write it like '10.0.0.0/8', '192.0.2.7/32' or '2001:db8::/32'"
    )


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("192.0.2.9", IPv4Address("192.0.2.9")),
        ("2001:db8::9", IPv6Address("2001:db8::9")),
        (IPv4Address("192.0.2.9"), IPv4Address("192.0.2.9")),
        (IPv6Address("::1"), IPv6Address("::1")),
    ],
)
def test_addresses(value: object, wanted: object) -> None:
    assert taken("IpAddress", value) == wanted


@pytest.mark.parametrize("value", ["192.0.2.9/32", "gw1", "", "192.0.2.09", 3221226000, None])
def test_what_is_no_address(value: object) -> None:
    assert refused("IpAddress", value) == (
        f"{value!r} is not an address; write it like '192.0.2.9' or '2001:db8::9'"
    )


@pytest.mark.parametrize("value", ["198.16.0.0/12", "198.18.0.0/16", "198.18.0.0/26"])
def test_networks_of_agents(value: str) -> None:
    assert taken("CellNetwork", value) == IPv4Network(value)


@pytest.mark.parametrize("value", ["198.0.0.0/11", "198.18.0.0/27", "2001:db8::/32", "fd00::/16"])
def test_networks_that_are_too_large_or_too_small_for_agents(value: str) -> None:
    assert refused("CellNetwork", value) == (
        f"{value!r} is not an IPv4 network of /12 to /26, such as '198.18.0.0/16'"
    )


@pytest.mark.parametrize(("value", "well"), [(1, True), (65535, True), (0, False), (65536, False)])
def test_ports(value: int, well: bool) -> None:
    if well:
        assert taken("Port", value) == value
    else:
        assert "than or equal to" in refused("Port", value)


# Sizes and numbers of tokens.


def test_sizes_in_bytes() -> None:
    assert in_bytes("3k") == 3 * 1024
    assert in_bytes("32m") == 32 * 1024**2
    assert in_bytes("10g") == 10 * 1024**3


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        (None, None),
        ("auto", "auto"),
        (1, 1),
        (16384, 16384),
        ("16384", 16384),
        ("16k", 16_000),
        ("2m", 2_000_000),
        ("1g", 1_000_000_000),
        ("16K", 16_384),
        ("2M", 2 << 20),
        ("1G", 1 << 30),
        ("1.5k", 1_500),
        ("25.6k", 25_600),
        (" 16k ", 16_000),
        ("999999999999", 999_999_999_999),
        ("0.000001m", 1),
    ],
)
def test_numbers_of_tokens(value: object, tokens: object) -> None:
    """vLLM's notation: 32k and 32K are two numbers."""
    assert types._tokens(value) == tokens


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        True,
        1.5,
        "",
        "0",
        "0k",
        "-1",
        "x",
        "1.5",
        "1.5K",
        "1.5M",
        "1.5G",
        "1.k",
        "k",
        "16kb",
        "1e3",
        "0.0001k",
        "1234567890123",
        "1.1234567k",
        "16k\nx",
        [],
        b"16k",
    ],
)
def test_what_is_no_number_of_tokens(value: object) -> None:
    with pytest.raises(ValueError, match="is not a number of tokens") as error:
        types._tokens(value)
    assert str(error.value).endswith(
        " is not a number of tokens; write 16384, or in vLLM's notation '16k' (16000) or '16K'"
        " (16384), or 'auto'"
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("CacheIsolation", ("client", "off")),
        ("CapacityCheck", ("refuse", "warn", "off")),
        ("DockerSource", ("docker-ce", "distro")),
        ("DriverMode", ("present", "install")),
        ("DriverSource", ("distro", "nvidia")),
        ("TlsMode", ("local-ca", "files")),
    ],
)
def test_choices(name: str, values: tuple[str, ...]) -> None:
    for value in values:
        assert taken(name, value) == value
    for value in ("", "x"):
        said = refused(name, value)
        assert all(repr(one) in said for one in values), said
