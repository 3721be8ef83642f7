"""Sites of other people, beside which the edge has to live."""

from __future__ import annotations

from hashlib import md5
from pathlib import Path

import pytest

from tests.unit.here import Here
from tests.unit.samples import settings
from tests.unit.test_edge_conf import DEBIAN_13, KEYS
from vllm_hosts.facts.nginx_sites import NginxSites
from vllm_hosts.host.files import Absent
from vllm_hosts.host.nginx_sites import Sites, site_ports, site_problems
from vllm_hosts.host.paths import NGINX_WELCOME
from vllm_hosts.roles.nginx.plan import edge_entries

COMES_WITH = (
    "server {\n\tlisten 80 default_server;\n\tlisten [::]:80 default_server;\n"
    "\t# listen 443 ssl default_server;\n\troot /var/www/html;\n\tserver_name _;\n}\n"
)


class Machine:
    """nginx's folders in a folder of this machine, and dpkg's word about the site that it had."""

    def __init__(self, folder: Path) -> None:
        self.here = Here(folder)
        self.etc, self.pages = folder / "etc", folder / "html"
        for path in (self.etc / "conf.d", self.etc / "sites-enabled", self.pages):
            path.mkdir(parents=True)
        (self.etc / "nginx.conf").write_text("http { include conf.d/*.conf; }\n")
        (self.pages / "index.nginx-debian.html").touch()
        digest = md5(COMES_WITH.encode(), usedforsecurity=False).hexdigest()
        self.here.program(
            "dpkg-query", f"echo ' /etc/nginx/sites-available/default {digest}'; exit 1"
        )

    def write(self, path: str, text: str) -> None:
        (self.etc / path).write_text(text)

    def sites(self) -> Sites:
        said = self.here.check_output(NginxSites().command(str(self.etc), str(self.pages)))
        return NginxSites().process(said.splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_host_without_nginx_has_none(machine: Machine) -> None:
    assert machine.sites() == Sites()


def test_the_distribution_s_site_gives_way(machine: Machine) -> None:
    machine.write("sites-enabled/default", COMES_WITH)
    sites = machine.sites()
    assert sites == Sites(welcome="distribution")
    assert site_problems(settings(), sites) == []
    assert Absent(NGINX_WELCOME) in edge_entries(settings(), KEYS, DEBIAN_13)


@pytest.mark.parametrize("name", ["index.html", "download.iso"])
def test_it_does_not_where_it_serves_somebody_s_pages(machine: Machine, name: str) -> None:
    machine.write("sites-enabled/default", COMES_WITH)
    (machine.pages / name).write_text("mine")
    [problem] = site_problems(settings(), machine.sites())
    assert f"nginx serves your own {name} by the distribution's {NGINX_WELCOME}" in problem
    assert "write a site with a server_name for it" in problem


def test_a_page_of_apache_s_is_nobody_s(machine: Machine) -> None:
    machine.write("sites-enabled/default", COMES_WITH)
    (machine.pages / "index.html").write_text(
        "<title>Apache2 Debian Default Page: It works</title>"
    )
    assert site_problems(settings(), machine.sites()) == []


def test_a_site_of_one_s_own_in_its_place_stays(machine: Machine) -> None:
    machine.write("sites-enabled/default", "server { listen 80; server_name wiki.example.com; }")
    sites = machine.sites()
    assert sites.welcome == "own"
    assert site_problems(settings(), sites) == []
    assert Absent(NGINX_WELCOME) not in edge_entries(settings(), KEYS, DEBIAN_13, own_site=True)


def test_ours_is_not_somebody_else_s(machine: Machine) -> None:
    machine.write("conf.d/vllm-hosts.conf", "server { listen 443 ssl default_server; }")
    assert machine.sites() == Sites()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("listen 80 default_server;", "answers port 80 for every name (default_server)"),
        ("listen 80 default;", "or set edge.http_port"),
        ("listen [::]:443 ssl http2\n  default_server ;", "or set edge.https_port"),
        ("listen *:80 default_server;", "take default_server from its listen lines"),
        ("listen 0.0.0.0 default_server;", "answers port 80"),
        ("server_name a;listen 443 ssl default_server;}", "answers port 443"),
        ("listen 192.0.2.7:443 ssl;", "listens on 192.0.2.7:443 by itself"),
        ("listen [2001:db8::7]:443 ssl;", "have it listen on 443"),
        ("listen example.com:80;", "listens on example.com:80 by itself"),
        ("listen 443 ssl proxy_protocol;", "take proxy_protocol from its listen lines"),
    ],
)
def test_what_cannot_live_together_is_named_with_the_way_out(
    machine: Machine, text: str, words: str
) -> None:
    machine.write("sites-enabled/wiki", f"# a wiki\nserver {{\n    {text}\n}}\n")
    [problem] = site_problems(settings(), machine.sites())
    assert words in problem
    assert str(machine.etc / "sites-enabled/wiki") in problem


@pytest.mark.parametrize(
    "text",
    [
        "listen 80;",
        "listen [::]:80;",
        "listen 443 ssl;  # default_server",
        "# listen 80 default_server;",
        "listen 8080 default_server;",
        "listen 127.0.0.1:80;",
        "listen [::1]:80 default_server;",
        "listen localhost:80;",
        "listen unix:/run/a.sock default_server;",
        "listen 192.0.2.7:8443 ssl;",
        "listen_backlog 80 default_server;",
    ],
)
def test_what_can_is_left_alone(machine: Machine, text: str) -> None:
    machine.write("conf.d/other.conf", f"server {{\n    {text}\n}}\n")
    assert site_problems(settings(), machine.sites()) == []


def test_other_ports_for_the_edge_are_a_way_out(machine: Machine) -> None:
    machine.write("sites-enabled/a", "server { listen 80 default_server; listen 443 default; }")
    assert len(site_problems(settings(), machine.sites())) == 2
    moved = settings(edge={"http_port": 8080, "https_port": 8443})
    assert site_problems(moved, machine.sites()) == []


def test_whatever_stands_in_somebody_s_files(machine: Machine) -> None:
    """What is no number is a name here, as to nginx, and stops nothing."""
    odd = "listen ;\nlisten \u200b;\nlisten \u00b2;\nlisten a:\u0663;\n" + f"listen {'9' * 190};\n"
    machine.write("conf.d/odd.conf", f"server {{\n{odd}listen 8001;\n}}\n")
    sites = machine.sites()
    assert all("by itself" in problem for problem in site_problems(settings(), sites))
    assert site_ports(sites) == {80, -1, 8001}


def test_a_file_s_name_is_no_command(machine: Machine) -> None:
    """Of sed, to which "e" means running a line."""
    machine.write("sites-enabled/a|e;s| |", "server { listen 443 default_server; }\n")
    [(file, words)] = machine.sites().listens
    assert file.endswith("sites-enabled/a|e;s| |")
    assert words == "443 default_server"
