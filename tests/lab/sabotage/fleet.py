"""Rows that break what is promised between gateways and hosts: in the lab with gateways only."""

from __future__ import annotations

from dataclasses import replace

from tests.lab.sabotage.parts import MAPS, RELOAD, Sabotage, edited, row

_FOLDER = "/etc/vllm-hosts/gateway"
_INNER = f"{MAPS}/inner.conf"
#: Whoever is not known is taken for a gateway.
_ANY = '/^map "$ssl_client_verify/,/^}/ s/default "";/default "gw1";/'
_RESTART = "systemctl restart vllm-hosts-balancer && sleep 3"
_BALANCER = "/etc/vllm-hosts/balancer/haproxy.cfg"
_SOCKETS = "/run/vllm-hosts-balancer"
_OTHER_CA = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=lab"
    " -keyout /dev/null 2>/dev/null"
)


def on_gateway(one: Sabotage) -> Sabotage:
    return replace(one, host="gw1")


ROWS = [
    # Hosts behind gateways
    row(
        "gateways-without-a-certificate",
        "GW-01",
        edited(f"s/ssl_verify_client on;/ssl_verify_client optional_no_ca;/; {_ANY}", _INNER),
    ),
    row("gateway-of-any-name", "GW-01", edited(_ANY, _INNER)),
    row(
        "gateway-port-open",
        "NET-03 NET-08 NET-09 GW-02",
        "nft insert rule inet vllm_hosts input tcp dport 8443 accept",
    ),
    row(
        "gateway-port-open-for-one-network",
        "NET-03 GW-02",
        "nft insert rule inet vllm_hosts input ip saddr 203.0.113.0/24 tcp dport 8443 accept",
    ),
    row(
        "agents-see-who-asks",
        "GW-04",
        edited("/X-Vllm-Hosts-Client/d", f"{MAPS}/upstream.conf"),
    ),
    row("inner-key-readable", "GW-05", f"chmod 644 {_FOLDER}/inner.key"),
    row(
        "another-ca-for-gateways",
        "GW-05",
        f"{_OTHER_CA} >>{_FOLDER}/ca.pem && {RELOAD}",
    ),
    # Gateways
    on_gateway(
        row(
            "pool-s-socket-for-everybody",
            "GW-03",
            f"chmod 666 {_SOCKETS}/in.chat.sock",
            undo=_RESTART,
        )
    ),
    on_gateway(
        row(
            "runtime-socket-for-nginx",
            "GW-03",
            f"chown root:www-data {_SOCKETS}/admin.sock && chmod 660 {_SOCKETS}/admin.sock",
            undo=_RESTART,
        )
    ),
    on_gateway(
        row(
            "balancer-on-a-port",
            "GW-03",
            f"printf 'frontend lab\\n    bind 127.0.0.1:9999\\n' >>{_BALANCER}"
            " && systemctl reload vllm-hosts-balancer && sleep 2",
        )
    ),
    on_gateway(
        row(
            "name-from-a-client",
            # Hosts refuse who has no name.
            "GW-04 EDGE-04",
            edited(
                "s/X-Vllm-Hosts-Client .*;/X-Vllm-Hosts-Client $http_x_vllm_hosts_client;/",
                f"{MAPS}/upstream.conf",
            ),
        )
    ),
    on_gateway(row("gateway-s-key-readable", "GW-05", f"chmod 644 {_FOLDER}/client.pem")),
]

#: Where gateways share an address, which the lab's fleet does for tests of that only. ``{address}``
#: is the one.
_KEEPALIVED = "/etc/vllm-hosts/keepalived"
SHARED_ROWS = [
    on_gateway(
        row(
            "vrrp-from-everybody",
            "NET-03 GW-06",
            "nft insert rule inet vllm_hosts input ip protocol 112 accept",
        )
    ),
    on_gateway(
        row(
            "vrrp-from-one-more",
            "NET-03 GW-06",
            "nft insert rule inet vllm_hosts input ip saddr 203.0.113.77 ip protocol 112 accept",
        )
    ),
    on_gateway(
        row(
            "vrrp-from-other-networks",
            "GW-06",
            "sed -i '/112 ip ttl/d' /etc/vllm-hosts/firewall.nft"
            " && nft -f /etc/vllm-hosts/firewall.nft",
        )
    ),
    on_gateway(
        row(
            "vrrp-from-nobody",
            "NET-03 GW-06",
            "nft insert rule inet vllm_hosts input ip protocol 112 drop",
        )
    ),
    on_gateway(row("keepalived-stopped", "GW-06", "systemctl stop vllm-hosts-keepalived")),
    on_gateway(
        row("keepalived-s-script-for-all", "GW-06", f"chmod 777 {_KEEPALIVED}/gateway-answers")
    ),
]
