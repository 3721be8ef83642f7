"""The one way to hosts: connecting, running commands, and saying why that failed."""
