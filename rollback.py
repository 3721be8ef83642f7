"""Back to the agents of before the last deploy: `pyinfra inventory/prod.py rollback.py`.

See docs/reliability.md.
"""

from vllm_hosts.project import run
from vllm_hosts.roles.assertions import assertions
from vllm_hosts.roles.lock import lock
from vllm_hosts.roles.ownership import ownership
from vllm_hosts.roles.rollback import rollback

lock()  # one run at a time on a host
ownership(first=False)  # only a host of this inventory
if run.current().settings.runs_agents:
    rollback()  # image, options and models of before; keys, certificates and firewall stay
assertions()  # the run fails if a promise does not hold
