"""The assay: is this synthetic data any good?"""
