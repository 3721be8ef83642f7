"""The lab's hosts behind gateways: `make lab-up HOSTS=3 GATEWAYS=2`, then
`pyinfra inventory/lab_fleet.py deploy.py`. Hosts to which inventory/lab.py was deployed have to be
reset first.
"""

from lab import hosts as _hosts
from lab import layout as _layout
from lab import network as _network
from lab.settings import fleet_host_data as _fleet_host_data
from lab.settings import fleet_settings as _fleet_settings

if not _network.is_up():
    # Its addresses could be somebody else's while they are not the lab's.
    raise RuntimeError("the lab is not up; run: make lab-up HOSTS=3 GATEWAYS=2")
if not _hosts.gateway_names():
    raise RuntimeError("the lab has no gateways; run: make lab-up HOSTS=3 GATEWAYS=2")


def _ssh(_name: str) -> dict[str, object]:
    _host = _hosts.host(_name)
    return {
        "ssh_hostname": str(_host.ipv4),
        "ssh_user": _host.ssh_user,
        "ssh_key": str(_layout.SSH_KEY),
        "ssh_known_hosts_file": str(_layout.KNOWN_HOSTS),
        "ssh_strict_host_key_checking": "yes",
        "_sudo": _host.ssh_user != "root",
    }


gateways = [(_name, _ssh(_name)) for _name in _hosts.gateway_names()]
gpu_hosts = [(_name, _fleet_host_data(_name, _ssh(_name))) for _name in _hosts.gpu_host_names()]
neighbours = [("neighbour", _ssh("neighbour"))]
lab = ([_name for _name, _ in [*gateways, *gpu_hosts]], _fleet_settings())
