"""Scoring: signals of patches -> standardised on normals, fused -> anomaly map, image score."""

from offnominal.scoring.maps import fuse, grid_of, image_score, on_grids, without_halo, working_map
from offnominal.scoring.signals import SIGNALS, NormalSignals, NormalSignalsBuilder, over_grid

__all__ = [
    "SIGNALS",
    "NormalSignals",
    "NormalSignalsBuilder",
    "fuse",
    "grid_of",
    "image_score",
    "on_grids",
    "over_grid",
    "without_halo",
    "working_map",
]
