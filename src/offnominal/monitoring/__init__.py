"""Drift monitoring: whether a stream of inspected images still looks like the training images."""
