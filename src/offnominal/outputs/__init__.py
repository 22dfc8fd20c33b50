"""Output files of a run: results, pictures, plots, reports and facts about the model."""
