"""From a model and an image to an inspection: patches, signals, evidence, evaluation."""

from offnominal.inference.engine import FeatureEngine, PatchSignals, SignalEngine, interior_patches, member_engines
from offnominal.inference.evaluation import Evaluated, Evaluation
from offnominal.inference.held_out_scores import held_out_maps, held_out_scores, normal_signals, scores_of_model
from offnominal.inference.inspector import Explanation, Inspector
from offnominal.inference.parallel import one_beside, side_by_side, threads_for, work_through

__all__ = [
    "Evaluated",
    "Evaluation",
    "Explanation",
    "FeatureEngine",
    "Inspector",
    "PatchSignals",
    "SignalEngine",
    "held_out_maps",
    "held_out_scores",
    "interior_patches",
    "member_engines",
    "normal_signals",
    "one_beside",
    "scores_of_model",
    "side_by_side",
    "threads_for",
    "work_through",
]
