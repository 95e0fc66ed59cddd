"""Packages that are extras: why one of them cannot be imported."""

from __future__ import annotations


def explain_failed_import(error: ImportError, package: str, missing: str) -> str:
    """What to say of an extra that cannot be imported.

    Args:
        error: The error of its import.
        package: The name that it is imported by.
        missing: What is said where it is not installed; one that is installed and broken has its own error.
    """
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return missing
    return f"the package {package} cannot be imported ({error}): mend its installation"
