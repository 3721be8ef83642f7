"""Deploys with a fault in the middle: what may be seen on the host then, and afterwards."""
