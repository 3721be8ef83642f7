"""Changes to a host, each made only if a query shows a difference."""
