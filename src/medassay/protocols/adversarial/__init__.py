"""Adversarial images: how little has to change until a classifier errs, and whether the attack can be believed."""
