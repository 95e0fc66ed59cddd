"""Heat maps: where a classifier looks, whether that explains it, and which method can be trusted."""
