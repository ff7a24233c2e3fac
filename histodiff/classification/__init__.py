"""Training and testing of a classifier on real and selected images."""
