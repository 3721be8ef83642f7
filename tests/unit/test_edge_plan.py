"""What the edge's plan decides by versions, by lengths of names, and for whose eyes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from tests.unit.samples import CODER, QWEN, behind, gateway, settings
from tests.unit.test_edge_conf import DEBIAN_13, KEYS, OPEN, PLAIN, RICH
from vllm_hosts.errors import HostError
from vllm_hosts.host.files import Absent, Entry, File, Folder
from vllm_hosts.host.nginx import TRIAL_FOLDER
from vllm_hosts.host.paths import GATEWAY_FILES, INNER_FILES
from vllm_hosts.roles.nginx import _watched
from vllm_hosts.roles.nginx.plan import (
    NginxVersion,
    Upstream,
    edge_conf,
    edge_entries,
    edge_paths,
    included,
    internal_map,
    parse_version,
)
from vllm_hosts.roles.nginx.trial import trial_entries
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import GatewayHost

CHOOSING = ("by_model", "chooser", "request_body", "model_scanner", "form_scanner")
COUNTING = ("request_body", "model_scanner", "tokens", "counting", "counter", "usage_scanner")
BALANCING = ("balance", "balancing", "affinity_scanner", "waiting", "link_scanner")
ANSWERING = ("pulse", "engine_pulse", "heads", "names", "naming")
NAMING = ("request_body", "model_scanner")
LUA = (*CHOOSING, *COUNTING[2:], *BALANCING, *ANSWERING)
NEITHER = {"count_tokens": False, "cache_isolation": "off"}
UNCOUNTED = settings(edge=NEITHER)
BUILT = "built with OpenSSL 3.0.8 7 Feb 2023"
RUNS = f"{BUILT} (running with OpenSSL 3.5.1 1 Jul 2025)"


class TestVersions:
    @pytest.mark.parametrize(("openssl", "found"), [(BUILT, (3, 0, 8)), (RUNS, (3, 5, 1))])
    def test_the_openssl_that_runs_counts(self, openssl: str, found: tuple[int, ...]) -> None:
        said = f"nginx version: nginx/1.22.10 (Ubuntu)\n{openssl}\n"
        assert parse_version(said) == NginxVersion((1, 22, 10), found)  # type: ignore[arg-type]

    @pytest.mark.parametrize("said", ["nginx version: nginx/1.22.1", RUNS, "", "x" * 200])
    def test_what_says_neither(self, said: str) -> None:
        with pytest.raises(ValueError) as error:
            parse_version(said)
        assert str(error.value) == f"no versions in {said[:80]!r}"

    @pytest.mark.parametrize(
        ("nginx", "directive", "timeouts"),
        [
            ((1, 18, 0), False, True),
            ((1, 19, 6), False, True),
            ((1, 19, 7), False, False),
            ((1, 25, 0), False, False),
            ((1, 25, 1), True, False),
            ((1, 26, 0), True, False),
        ],
    )
    def test_http2_as_this_nginx_takes_it(
        self, nginx: tuple[int, int, int], directive: bool, timeouts: bool
    ) -> None:
        version = NginxVersion(nginx, (3, 0, 2))
        tls = included(PLAIN, version)["tls"]
        assert ("http2 on;" in tls) == directive
        assert ("ssl http2;" in edge_conf(PLAIN, version)) == (not directive)
        assert any("http2_" in text for text in included(PLAIN, version).values()) == timeouts

    @pytest.mark.parametrize(
        ("openssl", "there"), [((3, 4, 9), False), ((3, 5, 0), True), ((4, 0, 0), True)]
    )
    def test_key_exchange_of_tomorrow_where_openssl_has_it(
        self, openssl: tuple[int, int, int], there: bool
    ) -> None:
        tls = included(PLAIN, NginxVersion((1, 26, 3), openssl))["tls"]
        assert ("X25519MLKEM768" in tls) == there

    def test_a_version_is_a_value(self) -> None:
        assert NginxVersion((1, 26, 3), (3, 5, 0)).ipv6
        for value, name in ((DEBIAN_13, "ipv6"), (Upstream("a", "192.0.2.1:8000"), "server")):
            with pytest.raises(FrozenInstanceError):
                setattr(value, name, 1)


class TestNames:
    @pytest.mark.parametrize(
        ("length", "bucket"),
        [(3, None), (46, None), (47, 128), (110, 128), (111, 256), (238, 256), (239, 512)],
    )
    def test_a_bucket_for_the_longest_name(self, length: int, bucket: int | None) -> None:
        host = settings(edge={"names": ["a.example", "a" * length]})
        text = edge_conf(host, DEBIAN_13)
        assert ("server_names_hash_bucket_size" in text) == (bucket is not None)
        if bucket:
            assert f"server_names_hash_bucket_size {bucket};" in text
        needed = bucket or 64
        # What somebody else set is enough, or named; said twice nginx would refuse it.
        assert "server_names_hash_bucket_size" not in edge_conf(
            host, replace(DEBIAN_13, names_bucket=needed)
        )
        if bucket:
            with pytest.raises(HostError) as error:
                edge_conf(host, replace(DEBIAN_13, names_bucket=needed // 2))
            assert str(error.value) == (
                "nginx's configuration on this host sets server_names_hash_bucket_size to"
                f" {needed // 2}, and the name {'a' * length} needs {needed}; raise it there, or"
                " take the line out"
            )

    @pytest.mark.parametrize(("length", "needed"), [(54, 72), (55, 80), (62, 80), (63, 88)])
    def test_a_bucket_of_exactly_the_size_is_enough(self, length: int, needed: int) -> None:
        host = settings(edge={"names": ["a" * length]})
        edge_conf(host, replace(DEBIAN_13, names_bucket=needed))
        with pytest.raises(HostError):
            edge_conf(host, replace(DEBIAN_13, names_bucket=needed - 1))

    def test_the_first_name_is_the_one_in_urls(self) -> None:
        text = edge_conf(RICH, DEBIAN_13)
        assert "https://llm.example.com:8443" in text
        assert "server_name llm.example.com [2001:db8::11];" in text


class TestFiles:
    def test_for_whose_eyes(self) -> None:
        names = ["tls", "common", "checks", "refused", "error", "upstream"]
        between = sorted({*GATEWAY_FILES, *INNER_FILES})
        entries = edge_entries(UNCOUNTED, KEYS, DEBIAN_13)
        assert [one.path for one in entries] == edge_paths(UNCOUNTED)
        assert [one.path for one in entries] == [
            "/etc/nginx/vllm-hosts",
            "/etc/nginx/sites-enabled/default",
            "/etc/nginx/conf.d/vllm-hosts.conf",
            *(f"/etc/nginx/vllm-hosts/{name}.conf" for name in names),
            "/etc/nginx/vllm-hosts/inner.conf",
            *between,
            "/etc/nginx/vllm-hosts/internal.map",
            "/etc/nginx/vllm-hosts/targets.map",
            *(f"/etc/nginx/vllm-hosts-lua/{name}.lua" for name in LUA),
        ]
        lua = len(LUA)
        assert all(isinstance(one, Absent) for one in entries[-lua:]), "nothing to choose or count"
        folder, welcome, main, *others = entries[:-lua]
        inner = [one for one in others if isinstance(one, Absent)]
        assert [one.path for one in inner] == ["/etc/nginx/vllm-hosts/inner.conf", *between]
        others = [one for one in others if one not in inner]
        assert folder == Folder("/etc/nginx/vllm-hosts", 0o700)
        assert isinstance(welcome, Absent)
        assert isinstance(main, File) and main.mode == 0o644
        for file in others:
            assert isinstance(file, File)
            assert (file.mode, file.owner, file.group) == (0o600, "root", "root")
            assert file.secret == file.path.endswith("internal.map")
        assert self.content(entries, "targets.map") == ""
        assert self.content(entries, "internal.map") == internal_map(PLAIN, KEYS)

    @staticmethod
    def content(entries: list[Entry], name: str) -> str:
        [file] = [one for one in entries if isinstance(one, File) and one.path.endswith(name)]
        return file.content.decode()

    def test_a_site_of_somebody_s_own_is_not_ours_to_remove(self) -> None:
        entries = edge_entries(PLAIN, KEYS, DEBIAN_13, own_site=True)
        there = [one.path for one in entries if isinstance(one, Absent)]
        assert "/etc/nginx/sites-enabled/default" not in there

    def test_workers_read_how_agents_are_chosen(self) -> None:
        entries = edge_entries(RICH, KEYS, DEBIAN_13)
        assert [one.path for one in entries] == edge_paths(RICH)
        folder, *files = entries[-len(LUA) - 1 :]
        assert folder == Folder("/etc/nginx/vllm-hosts-lua", 0o755)
        there = LUA[: -len((*BALANCING, *ANSWERING))]
        for file, name in zip(files[: len(there)], there, strict=True):
            assert isinstance(file, File)
            assert file.path == f"/etc/nginx/vllm-hosts-lua/{name}.lua"
            # They are not root, and nobody else may write what they run.
            assert (file.mode, file.owner, file.secret) == (0o644, "root", False)

    @pytest.mark.parametrize(
        ("host", "names"),
        [
            (PLAIN, COUNTING),
            (settings(agents=[QWEN, CODER], edge=NEITHER), CHOOSING),
            (settings(edge=NEITHER | {"cache_isolation": "client"}), COUNTING),
            (settings(agents=[QWEN, CODER], edge={"by_model": False}), COUNTING),
            (gateway(edge=NEITHER), (*CHOOSING, *COUNTING, *BALANCING)),
            (behind(edge=NEITHER), (*CHOOSING, *ANSWERING, *NAMING)),
        ],
    )
    def test_only_the_lua_that_is_run_is_there(
        self, host: HostSettings, names: tuple[str, ...]
    ) -> None:
        entries = edge_entries(host, KEYS, DEBIAN_13)
        assert [one.path for one in entries] == edge_paths(host)
        there = {one.path for one in entries if isinstance(one, File) and ".lua" in one.path}
        assert there == {f"/etc/nginx/vllm-hosts-lua/{name}.lua" for name in names}

    def test_cors_is_there_for_web_pages_only(self) -> None:
        path = "/etc/nginx/vllm-hosts/cors.conf"
        for host, there in ((PLAIN, False), (OPEN, True)):
            assert (path in edge_paths(host)) == there
            assert (path in [one.path for one in edge_entries(host, KEYS, DEBIAN_13)]) == there

    def test_internal_keys_in_the_order_of_bytes(self) -> None:
        """As the host sorts them when it changes one."""
        host = settings(agents=[QWEN, QWEN | {"name": "a-b", "port": 8002, "gpus": [1]}])
        assert internal_map(host, KEYS).splitlines() == [
            f'vllm_hosts_{name} "{KEYS.internal_of(name).get_secret_value()}";'
            for name in ("a-b", "qwen")
        ]


class TestOfFleets:
    def test_a_trial_has_certificates_for_gateways_of_its_own(self) -> None:
        """nginx is asked before the real ones are there, which are nobody else's business."""
        host = behind()
        found = trial_entries(host, edge_entries(host, KEYS, DEBIAN_13))
        files = {one.path: one for one in found if isinstance(one, File)}
        for name in ("ca.pem", "inner.pem", "inner.key"):
            assert files[f"{TRIAL_FOLDER}/{name}"].mode == 0o600
        text = files["/etc/nginx/vllm-hosts/inner.conf"].content.decode()
        assert f"ssl_client_certificate {TRIAL_FOLDER}/ca.pem;" in text
        assert "/etc/vllm-hosts/" not in text
        others = trial_entries(PLAIN, edge_entries(PLAIN, KEYS, DEBIAN_13))
        assert f"{TRIAL_FOLDER}/ca.pem" not in {one.path for one in others}

    def test_nginx_loads_what_it_shows_gateways_anew(self) -> None:
        assert _watched(behind()) == [
            *("/etc/vllm-hosts/tls/certificate.pem", "/etc/vllm-hosts/tls/key.pem"),
            *("/etc/vllm-hosts/gateway/ca.pem", "/etc/vllm-hosts/gateway/inner.pem"),
            "/etc/vllm-hosts/gateway/inner.key",
        ]
        assert _watched(gateway()) == _watched(PLAIN) == _watched(behind())[:2]

    def test_a_gateway_s_certificate_has_sixty_four_letters_of_its_name(self) -> None:
        long = "gw1." + "x" * 70
        host = behind().model_copy(update={"gateways": (GatewayHost(long, ()),)})
        assert f'"SUCCESS CN={long[:64]}" "{long}";' in included(host, DEBIAN_13)["inner"]

    def test_web_pages_may_name_a_session(self) -> None:
        origins = {"cors_origins": ["https://app.example.com"]}
        for host, there in ((gateway(edge=origins), True), (behind(edge=origins), False)):
            assert ("X-Session-Id" in edge_conf(host, DEBIAN_13)) == there
