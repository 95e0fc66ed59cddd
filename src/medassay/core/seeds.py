"""Seeds derived from seeds."""

from __future__ import annotations


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers (seed, epoch, rank, purpose), the same on every machine."""
    value = 0x9E3779B97F4A7C15
    for part in parts:  # the mixing steps of splitmix64 (Steele, Lea & Flood 2014)
        value = (value ^ (part & 0xFFFFFFFFFFFFFFFF)) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value >> 1
