"""Gradient inversion: what images a classifier's gradient gives away."""
