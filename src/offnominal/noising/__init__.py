"""Noising: patches and their neighbours -> influence, proposed noise, response; a head trained on noise."""

from offnominal.noising.head import STEPS, Head, train_head
from offnominal.noising.influence import influence, nearest
from offnominal.noising.neighbourhood import Neighbourhood, from_differences, neighbourhood
from offnominal.noising.proposal import noise_response, propose_noise

__all__ = [
    "STEPS",
    "Head",
    "Neighbourhood",
    "from_differences",
    "influence",
    "nearest",
    "neighbourhood",
    "noise_response",
    "propose_noise",
    "train_head",
]
