"""Looking at hosts from outside: what a stranger on the network could reach."""
