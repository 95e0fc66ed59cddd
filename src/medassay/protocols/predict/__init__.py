"""What a classifier says of any images."""
