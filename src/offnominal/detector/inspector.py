"""Model + image -> inspection: the one scoring path of every door."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from offnominal.decisions import find_regions
from offnominal.detector.engine import FeatureEngine, SignalEngine
from offnominal.detector.model import Model
from offnominal.errors import ImageError
from offnominal.images import ImageBatch, Source, batches, to_original
from offnominal.images.decode import Pixels
from offnominal.scoring import grid_of, image_score, working_map
from offnominal.types import Float, Inspection


@dataclass(frozen=True)
class Explanation:
    """The method's quantities for every patch of one image.

    Attributes:
        grid: (h, w) of the patches; N = h * w (of all segments where there are several).
        distances: (N, K) ascending, to the nearest bank patches.
        neighbours: (N, K) their rows in the bank.
        influence: (N, D) signed gradient of the mean distance; its absolute value is the influence.
        noise: (N, D) proposed standard deviations, in units of the standardised features.
        response: (N,) expected change of the mean distance under that noise.
    """

    grid: tuple[int, int]
    distances: Float
    neighbours: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    influence: Float
    noise: Float
    response: Float


class Inspector:
    """A model with its network, ready for images."""

    def __init__(self, model: Model, engine: FeatureEngine) -> None:
        self.model = model
        self.engine = engine
        self._signals = SignalEngine(model.bank.patches, model.settings, model.usual_distance, engine.device)

    def inspect(
        self, sources: Iterable[Source], failed: Callable[[int, ImageError], None], *, keep: bool = False
    ) -> Iterator[tuple[int, Inspection, Pixels | None]]:
        """`(index, inspection, decoded)` of every source that can be read, in the order in which batches are ready.

        `decoded` are the (H, W, 3) stored values where `keep` asks for them.
        """
        for batch in self._batches(sources, failed, keep):
            network = (batch.pixels.shape[2], batch.pixels.shape[3])
            for index, original, decoded, patches in zip(
                batch.index, batch.original, batch.decoded, self._patches(batch), strict=True
            ):
                yield index, self._inspection(original, network, patches), decoded

    def patches(
        self, sources: Iterable[Source], failed: Callable[[int, ImageError], None]
    ) -> Iterator[tuple[int, tuple[int, int], torch.Tensor]]:
        """`(index, (H, W) of the original, (N, D) standardised patches)` of every source that can be read."""
        for batch in self._batches(sources, failed, keep=False):
            yield from zip(batch.index, batch.original, self._patches(batch), strict=True)

    def explain(self, source: Source) -> Explanation:
        """Distances, influence, proposed noise and response of every patch of one image.

        Raises:
            ImageError: it cannot be read.
        """

        def fail(index: int, error: ImageError) -> None:
            raise error

        (batch,) = self._batches([source], fail, keep=False)
        found = self._signals(self._patches(batch)[0], with_noise=True)
        assert found.noise is not None
        return Explanation(
            self.engine.grids((batch.pixels.shape[2], batch.pixels.shape[3]))[0],
            found.around.distances.cpu().numpy(),
            found.around.indices.cpu().numpy(),
            found.around.gradient.cpu().numpy(),
            found.noise.cpu().numpy(),
            found.values[:, 2],
        )

    def _batches(
        self, sources: Iterable[Source], failed: Callable[[int, ImageError], None], keep: bool
    ) -> Iterator[ImageBatch]:
        model = self.model
        return batches(sources, model.geometry, model.values, batch_size=model.settings.batch_size, failed=failed, keep=keep)

    def _patches(self, batch: ImageBatch) -> torch.Tensor:
        network = (batch.pixels.shape[2], batch.pixels.shape[3])
        return self.engine.standardise(self.engine.patches(batch), self.model.standard, network)

    def _inspection(self, original: tuple[int, int], network: tuple[int, int], patches: torch.Tensor) -> Inspection:
        model = self.model
        signals = grid_of(self._signals(patches).values, self.engine.grids(network))
        anomaly = working_map(signals, model.normal, model.fusion_weights, network, model.settings.smoothing)
        score = image_score(anomaly)
        threshold = model.calibration.threshold
        return Inspection(
            path=None,
            score=score,
            p_value=model.calibration.p_value(score),
            anomalous=model.calibration.anomalous(score),
            threshold=threshold,
            anomaly_map=to_original(anomaly, original),
            influence_map=to_original(np.ascontiguousarray(signals[:, :, 1]), original),
            regions=find_regions(anomaly, threshold, original),
        )
