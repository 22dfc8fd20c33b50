"""Files written whole or not at all, temporary files for what does not fit into memory, and files that a run owns."""

from offnominal.storage.atomic import remove_unfinished, scratch_folder, write_whole

__all__ = [
    "remove_unfinished",
    "scratch_folder",
    "write_whole",
]
