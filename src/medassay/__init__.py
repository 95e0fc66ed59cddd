"""MedAssay."""
