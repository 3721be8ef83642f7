"""The rehearsal: an agent's own image accepts its own command line before anything is touched."""
