"""The audit: every protocol that fits a finished classifier, and a model card."""
