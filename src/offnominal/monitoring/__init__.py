"""Drift monitoring: whether inspected images still look like those that the model was fitted on."""
