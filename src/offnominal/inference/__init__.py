"""Model + image -> inspection: patches, signals, evidence, evaluation."""

from offnominal.inference.calibration_scores import (
    MemberSignals,
    held_out_maps,
    held_out_scores,
    normal_signals,
    scores_of_maps,
    scores_of_model,
    statistics_of,
)
from offnominal.inference.evaluation import Evaluated, Evaluation, Inspect, evaluate
from offnominal.inference.feature_engine import FeatureEngine, member_engines
from offnominal.inference.image_features import image_features
from offnominal.inference.inspector import Inspector
from offnominal.inference.member_scorer import Explanation
from offnominal.inference.model_networks import engines_of
from offnominal.inference.parallel import parallel_map, process_images, single_torch_thread, threads_for, worker_pool
from offnominal.inference.signals import BLOCK, PatchSignals, SignalEngine

__all__ = [
    "BLOCK",
    "Evaluated",
    "Evaluation",
    "Explanation",
    "FeatureEngine",
    "Inspect",
    "Inspector",
    "MemberSignals",
    "PatchSignals",
    "SignalEngine",
    "engines_of",
    "evaluate",
    "held_out_maps",
    "held_out_scores",
    "image_features",
    "member_engines",
    "normal_signals",
    "parallel_map",
    "process_images",
    "scores_of_maps",
    "scores_of_model",
    "single_torch_thread",
    "statistics_of",
    "threads_for",
    "worker_pool",
]
