"""Changes to a host, each made only where one look shows a difference."""
