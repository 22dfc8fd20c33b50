"""Adaptive propose noising: influence of features, proposed noise, and the response of the distance."""

from offnominal.noising.influence import influence, nearest
from offnominal.noising.neighbourhood import Neighbourhood, from_differences, neighbourhood
from offnominal.noising.proposal import noise_response, propose_noise

__all__ = [
    "Neighbourhood",
    "from_differences",
    "influence",
    "nearest",
    "neighbourhood",
    "noise_response",
    "propose_noise",
]
