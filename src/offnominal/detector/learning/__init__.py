"""From good images to a model: fit, audit, choice of a preset, and learning on."""
