"""The commands on a Ray cluster: fit, audit, inspect and evaluate, with images and results in object storage."""
