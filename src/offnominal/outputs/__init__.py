"""What a run leaves behind: results, pictures, plots, the report, and the state of the watch."""
