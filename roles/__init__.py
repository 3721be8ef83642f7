"""The roles, in the order of deploy.py: each one folder with its promise and its plan."""
