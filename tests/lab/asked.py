"""One request of a client with a key, on a connection of its own."""

from __future__ import annotations

import requests

from tests.lab.conftest import Deployed


def asked(deployed: Deployed, path: str, host: str = "gpu1") -> requests.Response:
    address = deployed.settings[host].address
    return requests.get(
        f"https://{address}{path}",
        headers={"Authorization": f"Bearer {deployed.client_key.get_secret_value()}"},
        verify=str(deployed.ca_file),
        timeout=20,
    )
