"""The lab's hosts with gpu1 as their mirror: `make lab-up`, then `pyinfra inventory/lab_mirror.py
deploy.py`. Hosts to which another inventory was deployed have to be reset first.
"""

from lab import hosts as _hosts
from lab import network as _network
from lab.settings import login as _login
from lab.settings import mirror_host_data as _mirror_host_data
from lab.settings import mirror_hosts as _mirror_hosts
from lab.settings import settings as _settings

if not _network.is_up():
    # Its addresses could be somebody else's while they are not the lab's.
    raise RuntimeError("the lab is not up; run: make lab-up")

gpu_hosts = [(_name, _mirror_host_data(_name)) for _name in _hosts.gpu_host_names()]
mirror = [(_name, _login(_name)) for _name in _mirror_hosts()]
neighbours = [("neighbour", _login("neighbour"))]
lab = ([_name for _name, _ in gpu_hosts], _settings())
