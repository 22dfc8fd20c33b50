"""Memory: normal patches -> bank; patches -> nearest bank patches."""

from offnominal.memory.bank import MemoryBank, SourceImage
from offnominal.memory.coreset import Coreset, greedy_kcenter, kcenter, random_coreset
from offnominal.memory.cover import cover
from offnominal.memory.held_out import HeldOutBanks
from offnominal.memory.search import NearestPatches
from offnominal.memory.store import PatchStore

__all__ = [
    "Coreset",
    "HeldOutBanks",
    "MemoryBank",
    "NearestPatches",
    "PatchStore",
    "SourceImage",
    "cover",
    "greedy_kcenter",
    "kcenter",
    "random_coreset",
]
