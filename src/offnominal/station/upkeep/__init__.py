"""Looking after a station: backup, restore, and the proof that nothing was changed."""
