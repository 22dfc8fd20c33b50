"""Model + image -> inspection: the one scoring path of every door."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from offnominal.decisions import find_regions
from offnominal.detector.appearances import whole_images
from offnominal.detector.engine import FeatureEngine, PatchSignals, SignalEngine, whole_patches
from offnominal.detector.evidence import EvidenceMaker
from offnominal.detector.model import Model
from offnominal.detector.model_checks import require_numbers
from offnominal.detector.threads import threads_for, work_through
from offnominal.errors import ImageError
from offnominal.images import ImageBatch, Source, raise_unreadable, thumbnail, to_original
from offnominal.images.decode import Pixels
from offnominal.scoring import grid_of, image_score, on_grids, working_map
from offnominal.types import Float, Inspection

Result = TypeVar("Result")


@dataclass(frozen=True)
class Explanation:
    """The method's quantities for every patch of one image.

    Attributes:
        grid: (h, w) of the places; N = h * w (of all segments where there are several). A place at the edge of the grid has no
            patch of its own: it repeats the one beside it.
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
        self._signals = SignalEngine(
            model.bank.patches, model.settings, model.usual_distance, engine.device, model.heads, model.settings.index
        )
        self._evidence = EvidenceMaker(model, engine, self._signals)

    def inspect(
        self,
        sources: Sequence[Source],
        failed: Callable[[int, ImageError], None],
        *,
        keep: bool = False,
        evidence: bool = False,
        maps: bool = False,
    ) -> Iterator[tuple[int, Inspection, Pixels | None]]:
        """`(index, inspection, decoded)` of every source that can be read, in the order in which batches are ready.

        `decoded` are the (H, W, 3) stored values where `keep` asks for them. `evidence` is worked out for every region, and the
        maps of noise and layers, where they are asked for. On a CPU many images are inspected side by side, a thread each.
        """
        self._signals.prepare()
        maps_of_an_image = 2 + (1 + len(self.model.backbone.layers) if maps else 0)

        def size(batch: ImageBatch) -> int:
            decoded = sum(pixels.nbytes for pixels in batch.decoded if pixels is not None)
            return decoded + 4 * maps_of_an_image * sum(height * width for height, width in batch.original)

        yield from self._work_through(sources, lambda batch: self._of_batch(batch, evidence, maps), size, failed, keep)

    def _of_batch(self, batch: ImageBatch, evidence: bool, maps: bool) -> Iterator[tuple[int, Inspection, Pixels | None]]:
        network = (batch.pixels.shape[2], batch.pixels.shape[3])
        raw = self.engine.maps(batch)
        appearance = self._appearance(batch, raw)
        standardised = self.engine.standardise(whole_patches(raw), self.model.standard, network)
        signals = self._signals_of(standardised, network, maps)
        for index, original, decoded, patches, found, whole in zip(
            batch.index, batch.original, batch.decoded, standardised, signals, appearance, strict=True
        ):
            inspection = self._inspection(original, network, patches, found, evidence, maps)
            require_numbers(whole)
            known = self.model.appearance
            usual = None if known is None else known.p_value(whole)
            yield index, replace(inspection, appearance=whole, whole_p_value=usual), decoded

    def _signals_of(self, patches: torch.Tensor, network: tuple[int, int], with_noise: bool) -> Iterator[PatchSignals]:
        """(B, N, D) standardised patches -> the signals of each image: on a GPU of all at once, on a CPU one by one."""
        upsampling, noise = self.engine.upsampling(network), True if with_noise else None
        for images in patches.split(1 if patches.device.type == "cpu" else len(patches)):
            yield from self._signals(images.flatten(0, 1), upsampling, with_noise=noise).split(len(images))

    def patches(
        self, sources: Sequence[Source], failed: Callable[[int, ImageError], None]
    ) -> Iterator[tuple[int, tuple[int, int], torch.Tensor, bytes]]:
        """`(index, (H, W) of the original, (N, D) standardised patches, thumbnail)` of every source that can be read."""

        def work(batch: ImageBatch) -> list[tuple[int, tuple[int, int], torch.Tensor, bytes]]:
            pictures = [thumbnail(pixels, original) for pixels, original in zip(batch.pixels, batch.original, strict=True)]
            return list(zip(batch.index, batch.original, self._patches(batch), pictures, strict=True))

        return self._work_through(sources, work, self.engine.size_of_patches, failed)

    def explain(self, source: Source) -> Explanation:
        """Distances, influence, proposed noise and response of every patch of one image.

        Raises:
            ImageError: it cannot be read.
        """
        (found,) = self._work_through(
            [source], lambda batch: [self._explained(batch)], self.engine.size_of_patches, raise_unreadable
        )
        return found

    def _explained(self, batch: ImageBatch) -> Explanation:
        """Of a batch of one."""
        network = (batch.pixels.shape[2], batch.pixels.shape[3])
        (found,) = self._signals_of(self._patches(batch), network, True)
        assert found.noise is not None
        grids = self.engine.grids(network)

        def everywhere(values: torch.Tensor) -> npt.NDArray[Any]:
            placed = on_grids(values.cpu().numpy(), grids)
            return np.concatenate([one.reshape(-1, values.shape[1]) for one in placed])

        return Explanation(
            grids[0],
            everywhere(found.around.distances),
            everywhere(found.around.indices),
            everywhere(found.around.gradient),
            everywhere(found.noise),
            everywhere(torch.from_numpy(found.values))[:, 2],
        )

    def _work_through(
        self,
        sources: Sequence[Source],
        work: Callable[[ImageBatch], Iterable[Result]],
        size: Callable[[ImageBatch], int],
        failed: Callable[[int, ImageError], None],
        keep: bool = False,
    ) -> Iterator[Result]:
        return work_through(
            sources,
            self.model.geometry,
            self.model.values,
            work,
            size,
            threads=threads_for(len(sources), self.engine.device),
            batch_size=self.model.settings.batch_size,
            failed=failed,
            keep=keep,
        )

    def _patches(self, batch: ImageBatch) -> torch.Tensor:
        network = (batch.pixels.shape[2], batch.pixels.shape[3])
        return self.engine.standardise(self.engine.patches(batch), self.model.standard, network)

    def _appearance(self, batch: ImageBatch, raw: list[torch.Tensor]) -> Float:
        """A batch and its raw maps -> (B, S) statistics of whole images; S = 0 where they are not watched."""
        if self.model.appearance is None:
            return np.empty((len(batch.index), 0), np.float32)
        return self.model.appearance.statistics(whole_images(batch, raw))

    def _inspection(
        self,
        original: tuple[int, int],
        network: tuple[int, int],
        patches: torch.Tensor,
        found: PatchSignals,
        evidence: bool,
        maps: bool,
    ) -> Inspection:
        model = self.model
        signals = grid_of(found.values, self.engine.grids(network))
        settings = model.settings
        anomaly = working_map(
            signals, model.normal, model.fusion_weights, network, settings.smoothing, settings.context, settings.halo
        )
        require_numbers(signals, anomaly)
        score = image_score(anomaly)
        threshold = model.calibration.threshold
        regions = find_regions(anomaly, model.calibration, original)
        if evidence:
            regions = self._evidence.regions(regions, patches, found, network, original)
        noise_map, layer_maps = self._further_maps(patches, found, network, original) if maps else (None, None)
        return Inspection(
            path=None,
            score=score,
            p_value=model.calibration.p_value(score),
            anomalous=model.calibration.anomalous(score),
            threshold=threshold,
            anomaly_map=to_original(anomaly, original),
            influence_map=to_original(np.ascontiguousarray(signals[:, :, 1]), original),
            regions=regions,
            noise_map=noise_map,
            layer_maps=layer_maps,
        )

    def _further_maps(
        self, patches: torch.Tensor, found: PatchSignals, network: tuple[int, int], original: tuple[int, int]
    ) -> tuple[Float, dict[str, Float]]:
        """(H, W) root mean square of the proposed noise over features, and the share of each layer."""
        assert found.noise is not None
        size = found.noise.square().mean(1, keepdim=True).sqrt().cpu().numpy()
        noise = np.ascontiguousarray(grid_of(size, self.engine.grids(network))[:, :, 0])
        layers = self._evidence.layer_maps(patches, found, network)
        require_numbers(noise, *layers.values())
        return to_original(noise, original), {name: to_original(values, original) for name, values in layers.items()}
