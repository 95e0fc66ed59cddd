"""The features that a classifier computes of images, as a file, and what simple classifiers make of them."""
