"""The shortcut audit: has a classifier learnt a stamp instead of the disease?"""
