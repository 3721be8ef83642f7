"""The lab's hosts: `make lab-up`, then `pyinfra inventory/lab.py deploy.py`."""

from lab import hosts as _hosts
from lab import layout as _layout
from lab import network as _network
from lab.settings import host_data as _host_data
from lab.settings import settings as _settings

if not _network.is_up():
    # Its addresses could be somebody else's while they are not the lab's.
    raise RuntimeError("the lab is not up; run: make lab-up")


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


gpu_hosts = [(_name, _host_data(_name, _ssh(_name))) for _name in _hosts.gpu_host_names()]
neighbours = [("neighbour", _ssh("neighbour"))]
lab = ([_name for _name, _ in gpu_hosts], _settings())
