"""What a host should have, and parsers for its programs' output: plain values and functions."""
