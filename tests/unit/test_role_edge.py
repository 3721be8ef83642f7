"""The edge, its keys, its certificate and its logs on hosts where something differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit import recorded_looks as looks
from tests.unit.recording import InLine, keys_py
from tests.unit.test_edge_conf import DEBIAN_13
from vllm_hosts.facts.vllm_images import Image, ImagesFound, Used
from vllm_hosts.host.files import NOTHING, Found
from vllm_hosts.host.nginx_sites import Sites
from vllm_hosts.host.paths import IMAGES_RECORD
from vllm_hosts.keys import KeyStore, store_content
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.operations.edge import RELOADED
from vllm_hosts.roles import nginx as nginx_role
from vllm_hosts.roles.client_keys import client_keys
from vllm_hosts.roles.edge_logs import edge_logs
from vllm_hosts.roles.nginx import nginx, nginx_asked
from vllm_hosts.roles.record import record
from vllm_hosts.roles.secrets import secrets
from vllm_hosts.roles.tls import tls


class TestKeys:
    def test_a_new_client_is_one_write_and_one_reload(self, in_line: InLine) -> None:
        recorder = in_line()
        store = KeyStore(recorder.inventory)
        store.update(
            lambda content: store_content.add_client(content, "alice", utc_now(), agents=["qwen"])
        )
        done = recorder.run(keys_py)
        assert done.changed == ["Client keys | The edge accepts exactly the keys of the store"]
        assert done.effects == [RELOADED]
        assert set(done.operations[-1].written) == {
            "/etc/nginx/vllm-hosts/clients.map",
            "/etc/nginx/vllm-hosts/scopes.map",
        }
        scopes = recorder.host.contents["/etc/nginx/vllm-hosts/scopes.map"].decode()
        assert '"coder alice" 1;' in scopes
        assert recorder.run(keys_py).changed == []

    def test_a_host_without_an_edge_gets_no_keys(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.paths["/etc/nginx/vllm-hosts/clients.map"] = NOTHING
        recorder.host.fails["this host has no edge yet"] = "this host has no edge yet"
        assert recorder.run(client_keys).failed


class TestFiles:
    def test_secrets_are_put_back(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.chmod("/opt/vllm/.env", 0o644)
        done = recorder.run(secrets)
        assert done.operations[0].written == {"/opt/vllm/.env": "0600 root:root"}
        names = [
            line.split("=")[0]
            for line in recorder.host.contents["/opt/vllm/.env"].decode().splitlines()
            if "=" in line
        ]
        assert names == ["VLLM_API_KEY_QWEN", "VLLM_API_KEY_CODER"]

    @pytest.mark.parametrize(
        "path",
        ["/var/log/vllm-hosts/access.log", "/var/log/vllm-hosts/error.log"],
    )
    def test_a_log_that_everybody_reads(self, in_line: InLine, path: str) -> None:
        recorder = in_line()
        recorder.host.chmod(path, 0o644)
        done = recorder.run(edge_logs)
        assert done.changed == ["Edge logs | Only root and adm read the edge's logs"]

    def test_logs_as_large_as_the_settings_say(self, in_line: InLine) -> None:
        recorder = in_line(edge={"names": ["llm.example.com"], "log_max_size": "7m"})
        recorder.run(edge_logs)
        assert b"7M" in recorder.host.contents["/etc/vllm-hosts/edge-logs.conf"]

    def test_a_timer_that_does_not_run(self, in_line: InLine) -> None:
        recorder = in_line()
        fresh = looks.FRESH["Units"]["vllm-hosts-edge-logs.timer"]
        recorder.host.facts["Units"]["vllm-hosts-edge-logs.timer"] = fresh
        assert recorder.run(edge_logs).changed == ["Edge logs | The timer for it runs"]

    def test_what_earlier_versions_left_is_noted(self, in_line: InLine) -> None:
        recorder = in_line()
        for path, found in recorder.host.paths.items():
            recorder.host.paths[path] = replace(found, deployed=None)
        done = recorder.run(secrets, record)
        assert done.changed == ["Record | The host has a record of what was deployed"]
        assert "note /opt/vllm/.env" in done["The host has a record of what was deployed"]
        # Secrets are noted by their digest alone.
        assert "copy /opt/vllm/.env" not in done["The host has a record of what was deployed"]

    def test_old_images_are_named_with_the_way_to_remove_them(self, in_line: InLine) -> None:
        recorder = in_line()
        images = [
            Image(f"sha256:{number * 64}", (f"vllm/vllm-openai:v0.3{number}.0",), (), 9 << 30)
            for number in "123"
        ]
        used = [Used(image.id, image.names[0]) for image in images]
        recorder.host.facts["ImagesThere"] = ImagesFound(tuple(images), (), tuple(used))
        lines = "".join(f"{one.id} {one.name}\n" for one in used)
        recorder.host.contents[IMAGES_RECORD] = lines.encode()
        [said] = recorder.run(record).said
        assert "no agent uses any more: vllm/vllm-openai:v0.31.0 (9.7 GB)" in said
        assert f"vllm-hosts images {recorder.inventory} prune" in said


class TestTls:
    def test_a_certificate_for_another_name_is_replaced(self, in_line: InLine) -> None:
        recorder = in_line(edge={"names": ["other.example.com"]})
        done = recorder.run(tls, nginx)
        assert "it gets a new certificate: " in done.said[0]
        assert done["The edge has a valid certificate"].commands
        # nginx has it open, so it is reloaded, and that is said before the run.
        assert done["The edge is configured and nginx has loaded it"].commands

    def test_nginx_takes_a_new_certificate_up(self, in_line: InLine) -> None:
        recorder = in_line()
        for path in ("/etc/vllm-hosts/tls/certificate.pem", "/etc/vllm-hosts/tls/key.pem"):
            found = recorder.host.paths[path]
            recorder.host.paths[path] = replace(found, sha256="0" * 64)
            done = recorder.run(nginx)
            assert done.changed == ["nginx | The edge is configured and nginx has loaded it"]
            assert done.effects == [RELOADED]

    def test_a_renewal_that_somebody_asked_for(self, in_line: InLine) -> None:
        recorder = in_line()
        now = utc_now()
        KeyStore(recorder.inventory).update(
            lambda content: content.model_copy(update={"renew": {"gpu1": now}})
        )
        assert recorder.run(tls).changed == ["TLS | The edge has a valid certificate"]

    def test_the_user_s_own_files(self, in_line: InLine, tmp_path: Path) -> None:
        for name in ("certificate", "key"):
            (tmp_path / name).write_text(f"of the user: {name}\n")
        given = {name: str(tmp_path / name) for name in ("certificate", "key")}
        recorder = in_line(tls={"mode": "files", **given})
        recorder.run(tls)
        assert recorder.host.contents["/etc/vllm-hosts/tls/key.pem"] == b"of the user: key\n"


class TestNginx:
    def test_a_configuration_that_nginx_rejects_fails_the_host_early(self, in_line: InLine) -> None:
        recorder = in_line(edge={"names": ["llm.example.com"], "https_port": 8443})
        recorder.host.fails["unshare -m"] = "nginx: [emerg] unknown directive"
        done = recorder.run(nginx_asked)
        assert "nginx would reject the edge's configuration: nginx: [emerg]" in done.refused[0]

    def test_a_host_that_has_all_of_it_is_not_asked(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.fails["unshare -m"] = "nginx: [emerg] unknown directive"
        assert recorder.run(nginx_asked).refused == []
        recorder.host.chmod("/etc/nginx/conf.d/vllm-hosts.conf", 0o600)
        assert recorder.run(nginx_asked).refused != []

    def test_it_is_installed_without_being_started(self, in_line: InLine) -> None:
        recorder = in_line()
        del recorder.host.packages["nginx"]
        assert (
            "mask --runtime --quiet nginx.service"
            in recorder.run(nginx_asked)["nginx is installed"]
        )

    def test_a_site_of_somebody_s_own_stays(self, in_line: InLine) -> None:
        recorder = in_line()
        welcome = "/etc/nginx/sites-enabled/default"
        there = Found("l", 0o777, ("root", "0"), ("root", "0"))
        for whose, stays in (("own", True), ("distribution", False)):
            recorder.host.facts["NginxSites"] = Sites(whose)
            recorder.host.paths[welcome] = there
            recorder.run(nginx)
            assert (recorder.host.paths[welcome] is there) == stays

    def test_the_configuration_is_for_the_nginx_that_is_there(self, in_line: InLine) -> None:
        recorder = in_line()
        state = recorder.host.facts["NginxState"]
        old = "nginx version: nginx/1.18.0\nbuilt with OpenSSL 3.0.2 15 Mar 2022\n"
        recorder.host.facts["NginxState"] = replace(
            state, version_text=old, ipv6=False, names_bucket=128
        )
        recorder.run(nginx)
        conf = recorder.host.contents["/etc/nginx/conf.d/vllm-hosts.conf"].decode()
        assert "listen 443 ssl http2" in conf
        assert "[::]" not in conf
        recorder.host.facts["NginxState"] = replace(state, version_text="apache", active=False)
        assert "the version of nginx cannot be determined" in recorder.run(nginx).refused[0]

    def test_a_plan_for_another_nginx_is_made_anew_in_the_same_run(self, in_line: InLine) -> None:
        """Before the run nobody knows which one will be installed: Debian 13's is assumed."""
        assert nginx_role._USUAL == DEBIAN_13
        recorder = in_line()
        del recorder.host.packages["nginx"]
        recorder.host.facts["NginxState"] = looks.FRESH["NginxState"]
        old = "nginx version: nginx/1.18.0\nbuilt with OpenSSL 3.0.2 15 Mar 2022\n"
        installed = replace(looks.FRESH["NginxState"], version_text=old)
        recorder.host.after = {"installing nginx": {"NginxState": installed}}
        recorder.run(nginx_asked, nginx)
        conf = recorder.host.contents["/etc/nginx/conf.d/vllm-hosts.conf"].decode()
        assert "listen 443 ssl http2" in conf

    def test_a_number_that_somebody_lowered(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.contents["/etc/nginx/nginx.conf"] = looks.NGINX_CONF
        recorder.host.paths["/etc/nginx/nginx.conf"] = replace(
            recorder.host.paths["/etc/nginx/nginx.conf"], sha256="0" * 64
        )
        done = recorder.run(nginx)
        assert set(done.operations[0].written) == {"/etc/nginx/nginx.conf"}
        assert b"worker_connections 768" not in recorder.host.contents["/etc/nginx/nginx.conf"]

    def test_nginx_that_does_not_run(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["NginxState"] = replace(recorder.host.facts["NginxState"], active=False)
        assert recorder.run(nginx).changed == ["nginx | nginx runs, now and at boot"]
