"""Models that a host gets from the hub, or as a copy from the controller."""
