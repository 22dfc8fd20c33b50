"""Model + image -> inspection: the one scoring path of every entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from offnominal.decisions import find_regions
from offnominal.errors import ImageError
from offnominal.images import Geometry, ImageBatch, Source, position_at, raise_unreadable, thumbnail, to_original
from offnominal.images.arrays import Pixels
from offnominal.inference.evidence import EvidenceMaker
from offnominal.inference.image_features import image_features
from offnominal.inference.parallel import threads_for, work_through
from offnominal.inference.patches import FeatureEngine, interior_patches
from offnominal.inference.signals import PatchSignals, SignalEngine
from offnominal.model import Member, Model, require_numbers
from offnominal.scoring import average_maps, image_score, member_map, to_grid
from offnominal.types import Float, Inspection, Region

Result = TypeVar("Result")


@dataclass(frozen=True)
class Explanation:
    """The method's quantities for every patch of one image, by one member of the model.

    Attributes:
        member: its name.
        grid: (h, w) of the positions; N = h * w. A position at the border of the grid has no patch of its own: it repeats the
            one beside it.
        distances: (N, K) ascending, to the nearest bank patches.
        neighbours: (N, K) their rows in the bank.
        influence: (N, D) signed gradient of the mean distance; its absolute value is the influence.
        noise: (N, D) proposed standard deviations, in units of the standardised features.
        response: (N,) expected change of the mean distance under that noise.
    """

    member: str
    grid: tuple[int, int]
    distances: Float
    neighbours: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    influence: Float
    noise: Float
    response: Float


@dataclass(frozen=True)
class MemberResult:
    """What one member finds in one image.

    Attributes:
        network: (height, width) of the image that its network saw.
        patches: (N, D) standardised.
        signals: of the patches.
        on_grid: (h, w, S) the signals on the grid of positions.
        anomaly: its working map.
    """

    network: tuple[int, int]
    patches: torch.Tensor
    signals: PatchSignals
    on_grid: Float
    anomaly: Float


class MemberScorer:
    """A member of a model with its network and its search."""

    def __init__(self, model: Model, member: Member, engine: FeatureEngine, view: int) -> None:
        self.member, self.engine, self.view = member, engine, view
        self._settings = model.settings
        self.signals = SignalEngine(member.bank.patches, model.settings, member.distance_scale, engine.device)
        self.evidence = EvidenceMaker(model, member, engine, self.signals)

    def patches(self, batch: ImageBatch) -> torch.Tensor:
        """(B, N, D) standardised patches."""
        seen = batch.seen(self.view)
        return self.engine.standardise(self.engine.patches(seen), self.member.standard, (seen.shape[2], seen.shape[3]))

    def score(self, batch: ImageBatch, with_noise: bool) -> tuple[torch.Tensor, list[MemberResult]]:
        """Raw maps (B, D, h, w) of a batch, and what the member finds in each image."""
        seen = batch.seen(self.view)
        network = (seen.shape[2], seen.shape[3])
        raw = self.engine.maps(seen)
        patches = self.engine.standardise(interior_patches(raw), self.member.standard, network)
        found = self._signals_of(patches, network, with_noise)
        return raw, [self._result(network, *one) for one in zip(patches, found, strict=True)]

    def explain(self, batch: ImageBatch) -> Explanation:
        """The quantities of a batch of one."""
        _, (found,) = self.score(batch, True)
        grid = self.engine.grid(found.network)
        noise = found.signals.noise
        assert noise is not None

        def everywhere(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return to_grid(values, grid).reshape(grid[0] * grid[1], -1)

        around = found.signals.around
        return Explanation(
            self.member.name,
            grid,
            everywhere(around.distances.cpu().numpy()),
            everywhere(around.indices.cpu().numpy()),
            everywhere(around.gradient.cpu().numpy()),
            everywhere(noise.cpu().numpy()),
            everywhere(found.signals.values)[:, 2],
        )

    def _signals_of(self, patches: torch.Tensor, network: tuple[int, int], with_noise: bool) -> Iterator[PatchSignals]:
        """(B, N, D) standardised patches -> the signals of each image: on a GPU of all at once, on a CPU one by one."""
        upsampling, noise = self.engine.upsampling(network), True if with_noise else None
        for images in patches.split(1 if patches.device.type == "cpu" else len(patches)):
            yield from self.signals(images.flatten(0, 1), upsampling, with_noise=noise).split(len(images))

    def _result(self, network: tuple[int, int], patches: torch.Tensor, found: PatchSignals) -> MemberResult:
        settings = self._settings
        on_grid = to_grid(found.values, self.engine.grid(network))
        anomaly = member_map(on_grid, self.member.normal, settings.fusion.weights, network, settings.smoothing, settings.halo)
        return MemberResult(network, patches, found, on_grid, anomaly)


class Inspector:
    """A model with its networks, ready for images."""

    def __init__(self, model: Model, engines: Sequence[FeatureEngine]) -> None:
        self.model, self.engines = model, tuple(engines)
        #: How images are resized: members of one geometry share a view.
        self.views: tuple[Geometry, ...] = tuple(dict.fromkeys(member.geometry for member in model.members))
        self.scorers = tuple(
            MemberScorer(model, member, engine, self.views.index(member.geometry))
            for member, engine in zip(model.members, self.engines, strict=True)
        )

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

        `decoded` are the (H, W, 3) stored values if `keep` asks for them. Evidence is computed for every region, and maps of
        noise and layers, if they are asked for. On a CPU many images are inspected side by side, a thread each.
        """
        for scorer in self.scorers:
            scorer.signals.prepare()
        layers = sum(len(member.backbone.layers) for member in self.model.members)
        maps_of_an_image = 2 + (1 + layers if maps else 0)

        def size(batch: ImageBatch) -> int:
            decoded = sum(pixels.nbytes for pixels in batch.decoded if pixels is not None)
            return decoded + 4 * maps_of_an_image * sum(height * width for height, width in batch.original)

        inspected = self._work_through(sources, lambda batch: self._of_batch(batch, evidence, maps), size, failed, keep)
        for index, inspection, pixels in inspected:
            source = sources[index]
            yield index, replace(inspection, path=str(source)) if isinstance(source, (str, Path)) else inspection, pixels

    def _of_batch(self, batch: ImageBatch, evidence: bool, maps: bool) -> Iterator[tuple[int, Inspection, Pixels | None]]:
        results: list[list[MemberResult]] = []
        appearance = np.empty((len(batch.index), 0), np.float32)
        for at, scorer in enumerate(self.scorers):
            raw, of_member = scorer.score(batch, maps)
            if at == 0 and self.model.appearance is not None:
                appearance = self.model.appearance.statistics(image_features(batch, raw))
            results.append(of_member)
        for index, original, decoded, of_image, whole in zip(
            batch.index, batch.original, batch.decoded, zip(*results, strict=True), appearance, strict=True
        ):
            inspection = self._inspection(original, of_image, evidence, maps)
            require_numbers(whole)
            known = self.model.appearance
            p_value = None if known is None else known.p_value(whole)
            yield index, replace(inspection, appearance=whole, whole_p_value=p_value), decoded

    def patches(
        self, sources: Sequence[Source], failed: Callable[[int, ImageError], None]
    ) -> Iterator[tuple[int, tuple[int, int], list[torch.Tensor], bytes]]:
        """Of every source that can be read `(index, (H, W) of the original, (N, D) patches of each member, thumbnail)`."""

        def work(batch: ImageBatch) -> list[tuple[int, tuple[int, int], list[torch.Tensor], bytes]]:
            pictures = [thumbnail(pixels, original) for pixels, original in zip(batch.views[0], batch.original, strict=True)]
            members = [scorer.patches(batch) for scorer in self.scorers]
            require_numbers(*members)
            patches = [[of_member[at] for of_member in members] for at in range(len(batch.index))]
            return list(zip(batch.index, batch.original, patches, pictures, strict=True))

        return self._work_through(sources, work, self._bytes_of_patches, failed)

    def explain(self, source: Source, member: int = 0) -> Explanation:
        """Distances, influence, proposed noise and response of every patch of one image, by one member.

        Raises:
            ImageError: it cannot be read.
        """
        scorer = self.scorers[member]
        (found,) = self._work_through([source], lambda batch: [scorer.explain(batch)], self._bytes_of_patches, raise_unreadable)
        return found

    def _bytes_of_patches(self, batch: ImageBatch) -> int:
        return sum(scorer.engine.bytes_of_patches(batch.views[scorer.view]) for scorer in self.scorers)

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
            self.views,
            self.model.values,
            work,
            size,
            threads=threads_for(len(sources), self.engines[0].device),
            batch_size=self.model.settings.batch_size,
            failed=failed,
            keep=keep,
            memory=self.model.settings.memory,
        )

    def _inspection(self, original: tuple[int, int], found: Sequence[MemberResult], evidence: bool, maps: bool) -> Inspection:
        calibration = self.model.calibration
        anomaly = average_maps([one.anomaly for one in found])
        require_numbers(anomaly, *(one.on_grid for one in found))
        score = image_score(anomaly)
        regions = find_regions(anomaly, calibration, original)
        if evidence:
            regions = self._with_evidence(regions, found, original)
        noise_map, layer_maps = self._further_maps(found, original) if maps else (None, None)
        influence = average_maps([np.ascontiguousarray(one.on_grid[:, :, 1]) for one in found])
        return Inspection(
            path=None,
            score=score,
            p_value=calibration.p_value(score),
            anomalous=calibration.anomalous(score),
            threshold=calibration.threshold,
            anomaly_map=to_original(anomaly, original),
            influence_map=to_original(influence, original),
            regions=regions,
            noise_map=noise_map,
            layer_maps=layer_maps,
        )

    def _with_evidence(
        self, regions: tuple[Region, ...], found: Sequence[MemberResult], original: tuple[int, int]
    ) -> tuple[Region, ...]:
        """The regions, each with the evidence of the member whose map is highest at its peak."""
        leading = [_leading_member(region, found, original) for region in regions]
        explained: dict[int, Region] = {}
        for member, (scorer, one) in enumerate(zip(self.scorers, found, strict=True)):
            own = [at for at, lead in enumerate(leading) if lead == member]
            made = scorer.evidence.regions(tuple(regions[at] for at in own), one.patches, one.signals, one.network, original)
            explained |= dict(zip(own, made, strict=True))
        return tuple(explained[at] for at in range(len(regions)))

    def _further_maps(self, found: Sequence[MemberResult], original: tuple[int, int]) -> tuple[Float, dict[str, Float]]:
        """(H, W) root mean square of the proposed noise over features, and the share of each layer of each member."""
        noise, layers = [], {}
        several = len(found) > 1
        for scorer, one in zip(self.scorers, found, strict=True):
            assert one.signals.noise is not None
            size = one.signals.noise.square().mean(1, keepdim=True).sqrt().cpu().numpy()
            noise.append(np.ascontiguousarray(to_grid(size, scorer.engine.grid(one.network))[:, :, 0]))
            for name, shares in scorer.evidence.layer_maps(one.patches, one.signals, one.network).items():
                layers[f"{scorer.member.name}:{name}" if several else name] = shares / np.float32(len(found))
        require_numbers(*noise, *layers.values())
        return to_original(average_maps(noise), original), {
            name: to_original(values, original) for name, values in layers.items()
        }


def _leading_member(region: Region, found: Sequence[MemberResult], original: tuple[int, int]) -> int:
    """The member whose map is highest at the region's peak."""
    heights = [float(one.anomaly[position_at(region.peak_at, _shape(one.anomaly), original)]) for one in found]
    return int(np.argmax(heights))


def _shape(values: Float) -> tuple[int, int]:
    return values.shape[0], values.shape[1]
