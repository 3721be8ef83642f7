"""What is wrong with a host, most likely first, and what to do about it. Changes nothing."""
