"""Folders as sources of a line: each image in them is inspected once."""
