"""How good a classifier is, from its run alone."""
