"""For all tests: gevent replaces the socket module before anybody uses ssl, as under pyinfra."""

import pyinfra_cli  # noqa: F401
