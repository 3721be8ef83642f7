"""Two of the lab's hosts as gateways and GPU hosts, each before both: `make lab-up`, then
`pyinfra inventory/lab_both.py deploy.py`. Hosts to which another inventory was deployed have to be
reset first.
"""

from lab import network as _network
from lab.settings import BOTH as _BOTH
from lab.settings import both_settings as _both_settings
from lab.settings import fleet_host_data as _fleet_host_data
from lab.settings import login as _login

if not _network.is_up():
    # Its addresses could be somebody else's while they are not the lab's.
    raise RuntimeError("the lab is not up; run: make lab-up")

gateways = [(_name, _login(_name)) for _name in _BOTH]
gpu_hosts = [(_name, _fleet_host_data(_name)) for _name in _BOTH]
neighbours = [("neighbour", _login("neighbour"))]
lab = ([*_BOTH], _both_settings())
