"""Changes to a host, each made only where one query shows a difference."""
