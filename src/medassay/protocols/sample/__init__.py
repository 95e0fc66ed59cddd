"""Images of requested classes from a generator."""
