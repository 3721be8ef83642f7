"""What a host should have, and how its programs' words read: plain values and functions."""
