"""From GPU boxes to vLLM endpoints: authenticated, TLS-terminated and closed from outside."""

__version__ = "0.1.0"
