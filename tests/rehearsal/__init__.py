"""Rehearsals of many models in the lab's image, recorded for the unit tests and the documents."""
