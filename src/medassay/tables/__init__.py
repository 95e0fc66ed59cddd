"""Laboratory tables: read as they are, repaired where a spreadsheet turned numbers into dates."""

from medassay.tables.values import read_values as read_values

__all__ = ["read_values"]
