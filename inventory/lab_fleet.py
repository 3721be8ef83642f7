"""The lab's hosts behind gateways: `make lab-up HOSTS=3 GATEWAYS=2`, then
`pyinfra inventory/lab_fleet.py deploy.py`. Hosts to which inventory/lab.py was deployed have to be
reset first.
"""

from lab import hosts as _hosts
from lab import network as _network
from lab.settings import fleet_host_data as _fleet_host_data
from lab.settings import fleet_settings as _fleet_settings
from lab.settings import login as _login

if not _network.is_up():
    # Its addresses could be somebody else's while they are not the lab's.
    raise RuntimeError("the lab is not up; run: make lab-up HOSTS=3 GATEWAYS=2")
if not _hosts.gateway_names():
    raise RuntimeError("the lab has no gateways; run: make lab-up HOSTS=3 GATEWAYS=2")

gateways = [(_name, _login(_name)) for _name in _hosts.gateway_names()]
gpu_hosts = [(_name, _fleet_host_data(_name)) for _name in _hosts.gpu_host_names()]
neighbours = [("neighbour", _login("neighbour"))]
lab = ([_name for _name, _ in [*gateways, *gpu_hosts]], _fleet_settings())
