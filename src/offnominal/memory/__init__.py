"""Memory: normal patches -> bank; patches -> nearest bank patches."""

from offnominal.memory.bank import MemoryBank, SourceImage
from offnominal.memory.coreset import Coreset, Unfinished, greedy_kcenter, kcenter, random_coreset
from offnominal.memory.cover import cover
from offnominal.memory.held_out import HeldOutBanks
from offnominal.memory.search import EXACT_INDEXES, NearestPatches
from offnominal.memory.store import PatchRows, PatchStore
from offnominal.memory.upsampled import Upsampling

__all__ = [
    "EXACT_INDEXES",
    "Coreset",
    "HeldOutBanks",
    "MemoryBank",
    "NearestPatches",
    "PatchRows",
    "PatchStore",
    "SourceImage",
    "Unfinished",
    "Upsampling",
    "cover",
    "greedy_kcenter",
    "kcenter",
    "random_coreset",
]
