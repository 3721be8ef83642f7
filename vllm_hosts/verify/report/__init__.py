"""What a run of the hosts suite found, for people and for programs."""
