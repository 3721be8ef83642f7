"""The one way to hosts: connecting, running, and why it could not be."""
