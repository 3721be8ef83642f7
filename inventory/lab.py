"""The lab's hosts: `make lab-up`, then `pyinfra inventory/lab.py deploy.py`."""

from lab import hosts as _hosts
from lab import network as _network
from lab.settings import host_data as _host_data
from lab.settings import login as _login
from lab.settings import settings as _settings

if not _network.is_up():
    # Its addresses could be somebody else's while they are not the lab's.
    raise RuntimeError("the lab is not up; run: make lab-up")

gpu_hosts = [(_name, _host_data(_name, _login(_name))) for _name in _hosts.gpu_host_names()]
neighbours = [("neighbour", _login("neighbour"))]
lab = ([_name for _name, _ in gpu_hosts], _settings())
