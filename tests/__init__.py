"""The tests; a package of its own, so that no installed one of that name stands before it."""
