"""Scoring: patch signals are standardised and fused into anomaly maps and image scores."""

from offnominal.scoring.maps import average_maps, fuse, member_map, suppress_leakage, working_size
from offnominal.scoring.signals import DISTANCE, INFLUENCE, RESPONSE, SIGNALS, NormalSignals, NormalSignalsBuilder

__all__ = [
    "DISTANCE",
    "INFLUENCE",
    "RESPONSE",
    "SIGNALS",
    "NormalSignals",
    "NormalSignalsBuilder",
    "average_maps",
    "fuse",
    "member_map",
    "suppress_leakage",
    "working_size",
]
