"""Of which images a classifier is not sure, what leaving them out gains, and how sure it is of what it was never shown."""
