"""Models from the hub, and models from the controller, on their way into a host's folders."""
