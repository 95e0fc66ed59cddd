"""The fairness audit: does a classifier treat groups of images differently?"""
