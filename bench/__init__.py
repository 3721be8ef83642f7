"""What a run costs: measured, and never part of what users install."""
