"""Memory bank: coreset selection, storage and nearest-neighbour search of normal patches."""

from offnominal.memory.bank import MemoryBank, SourceImage
from offnominal.memory.coreset import Coreset, farthest_from_mean, greedy_kcenter, kcenter, random_coreset
from offnominal.memory.cover import cover
from offnominal.memory.leave_one_out import HeldOutBanks
from offnominal.memory.merge import MergedCoreset, merge_coresets
from offnominal.memory.search import NearestPatches
from offnominal.memory.store import PatchRows, PatchStore, RemainingRows
from offnominal.memory.upsampled import Upsampling

__all__ = [
    "Coreset",
    "HeldOutBanks",
    "MemoryBank",
    "MergedCoreset",
    "NearestPatches",
    "PatchRows",
    "PatchStore",
    "RemainingRows",
    "SourceImage",
    "Upsampling",
    "cover",
    "farthest_from_mean",
    "greedy_kcenter",
    "kcenter",
    "merge_coresets",
    "random_coreset",
]
