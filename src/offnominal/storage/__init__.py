"""Atomic writes, temporary files beyond a memory limit, and a record of the files that a run has written."""

from offnominal.storage.atomic import remove_unfinished, scratch_folder, write_atomically

__all__ = [
    "remove_unfinished",
    "scratch_folder",
    "write_atomically",
]
