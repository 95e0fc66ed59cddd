"""Domain shift: how far a classifier falls on images unlike those it learnt from, and whether anybody would notice."""
