"""Model + image -> inspection: the only scoring path, used by every entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from torch import Tensor

from offnominal.decisions import find_regions
from offnominal.errors import ImageError
from offnominal.gates import MmPerPixel, extents, reach_of
from offnominal.images import (
    ImageBatch,
    Preprocessing,
    Source,
    View,
    moved,
    path_of,
    position_at,
    raise_unreadable,
    thumbnail,
    to_original,
    views_of,
)
from offnominal.images.arrays import Pixels
from offnominal.inference.feature_engine import FeatureEngine
from offnominal.inference.image_features import image_features
from offnominal.inference.member_scorer import Explanation, MemberResult, MemberScorer
from offnominal.inference.parallel import process_images, threads_for
from offnominal.inference.restored import restored
from offnominal.model import Model, require_finite
from offnominal.roi import outside_lowered
from offnominal.scoring import INFLUENCE, average_maps, working_size
from offnominal.types import Float, Inspection, Pose, Region, ZoneScore

Result = TypeVar("Result")


class Inspector:
    """A model with its networks, ready to inspect images.

    Attributes
    ----------
    model
        The fitted model.
    engines
        The network of each member.
    preprocessing
        From pixels to the views of the networks; members with the same geometry share a view.
    scorers
        One scorer for each member.

    Examples
    --------
    >>> from offnominal.images import raise_unreadable
    >>> from offnominal.inference import engines_of
    >>> from offnominal.model import load_model
    >>> model = load_model(Path("part.safetensors"))  # doctest: +SKIP
    >>> inspector = Inspector(model, engines_of(model, None, "part.safetensors"))  # doctest: +SKIP
    >>> for index, inspection, _ in inspector.inspect(["a.png", "b.png"], raise_unreadable):  # doctest: +SKIP
    ...     print(inspection.path, inspection.anomalous)
    a.png False
    b.png True
    """

    def __init__(self, model: Model, engines: Sequence[FeatureEngine]) -> None:
        self.model, self.engines = model, tuple(engines)
        views = views_of([member.geometry for member in model.members])
        self.preprocessing = Preprocessing(views, model.values, model.region, model.alignment, model.settings.memory)
        self.scorers = tuple(
            MemberScorer(model, member, engine, views.index(member.geometry))
            for member, engine in zip(model.members, self.engines, strict=True)
        )

    def inspect(
        self,
        sources: Sequence[Source],
        failed: Callable[[int, ImageError], None],
        *,
        keep_pixels: bool = False,
        evidence: bool = False,
        with_maps: bool = False,
    ) -> Iterator[tuple[int, Inspection, Pixels | None]]:
        """Inspect images, in the order in which batches are complete. On a CPU, many images are inspected in parallel.

        Parameters
        ----------
        sources
            Paths or arrays.
        failed
            Called with index and error of each image that cannot be read or scored.
        keep_pixels
            Whether to return the decoded pixels.
        evidence
            Whether to compute evidence for each region.
        with_maps
            Whether to compute maps of the noise and the layers.

        Yields
        ------
        index, inspection, decoded
            Index in `sources`; the result; (H, W, 3) stored values if `keep_pixels`, otherwise None.
        """
        for scorer in self.scorers:
            scorer.signals.prepare()
        layers = sum(len(member.backbone.layers) for member in self.model.members)
        maps_per_image = 2 + (1 + layers if with_maps else 0)

        def size(batch: ImageBatch) -> int:
            decoded = sum(pixels.nbytes for pixels in batch.decoded if pixels is not None)
            return decoded + 4 * maps_per_image * sum(height * width for height, width in batch.original)

        inspections = self._process(
            sources, lambda batch: self._inspect_batch(batch, evidence, with_maps), size, failed, keep_pixels=keep_pixels
        )
        for index, inspection, pixels in inspections:
            yield index, replace(inspection, path=path_of(sources[index])), pixels

    def _inspect_batch(
        self, batch: ImageBatch, evidence: bool, with_maps: bool
    ) -> Iterator[tuple[int, Inspection, Pixels | None]]:
        appearance = self.model.appearance
        results: list[list[MemberResult]] = []
        statistics = np.empty((len(batch.index), 0), np.float32)
        for at, scorer in enumerate(self.scorers):
            raw, of_member = scorer.score(batch, with_maps)
            if at == 0 and appearance is not None:
                statistics = appearance.statistics(image_features(batch, raw))
            results.append(of_member)
        for at, (index, decoded, of_image, whole) in enumerate(
            zip(batch.index, batch.decoded, zip(*results, strict=True), statistics, strict=True)
        ):
            inspection = self._inspection(
                batch.original[at], batch.poses[at], batch.mm_per_pixel[at], of_image, evidence, with_maps
            )
            require_finite(whole)
            p_value = None if appearance is None else appearance.p_value(whole)
            yield index, replace(inspection, appearance=whole, whole_p_value=p_value), decoded

    def patches(
        self, sources: Sequence[Source], failed: Callable[[int, ImageError], None]
    ) -> Iterator[tuple[int, tuple[int, int], list[Tensor], bytes]]:
        """Compute standardised patches.

        Yields
        ------
        index, original, patches, thumbnail
            Index in `sources`; (H, W) of the original image; (N, D) patches of each member; JPEG thumbnail.
        """

        def work(batch: ImageBatch) -> list[tuple[int, tuple[int, int], list[Tensor], bytes]]:
            thumbnails = [thumbnail(pixels, original) for pixels, original in zip(batch.overview, batch.original, strict=True)]
            shape = working_size([(pixels.shape[2], pixels.shape[3]) for pixels in self._seen(batch)])
            for pose, original, mm_per_pixel in zip(batch.poses, batch.original, batch.mm_per_pixel, strict=True):
                if pose is not None and not pose.found:
                    raise ImageError(f"the part is not found: {pose.problem}")
                self._require_gates(shape, original, mm_per_pixel)
            members = [scorer.patches(batch) for scorer in self.scorers]
            require_finite(*members)
            patches = [[of_member[at] for of_member in members] for at in range(len(batch.index))]
            return list(zip(batch.index, batch.original, patches, thumbnails, strict=True))

        return self._process(sources, work, self._bytes_of_patches, failed)

    def explain(self, source: Source, member: int = 0) -> Explanation:
        """Distances, influence, proposed noise and response for each patch position of one image, by one member.

        Raises
        ------
        ImageError
            If the image cannot be read or scored.
        """
        scorer = self.scorers[member]
        (explanation,) = self._process(
            [source], lambda batch: [scorer.explain(batch)], self._bytes_of_patches, raise_unreadable
        )
        return explanation

    def _bytes_of_patches(self, batch: ImageBatch) -> int:
        return sum(engine.bytes_of_patches(pixels) for engine, pixels in zip(self.engines, self._seen(batch), strict=True))

    def _seen(self, batch: ImageBatch) -> list[View]:
        """The view of each member."""
        return [batch.views[scorer.view] for scorer in self.scorers]

    def _process(
        self,
        sources: Sequence[Source],
        work: Callable[[ImageBatch], Iterable[Result]],
        size: Callable[[ImageBatch], int],
        failed: Callable[[int, ImageError], None],
        *,
        keep_pixels: bool = False,
    ) -> Iterator[Result]:
        return process_images(
            sources,
            self.preprocessing,
            work,
            size,
            threads=1 if self.engines[0].tiled is not None else threads_for(len(sources), self.engines[0].device),
            batch_size=self.model.settings.batch_size,
            failed=failed,
            keep=keep_pixels,
        )

    def _inspection(
        self,
        original: tuple[int, int],
        pose: Pose | None,
        mm_per_pixel: MmPerPixel | None,
        results: Sequence[MemberResult],
        evidence: bool,
        with_maps: bool,
    ) -> Inspection:
        calibration, gates = self.model.calibration, self.model.gates
        mm_per_pixel = mm_per_pixel or gates.mm_per_pixel
        anomaly = outside_lowered(average_maps([result.anomaly for result in results]), self.model.region)
        require_finite(anomaly, *(result.on_grid for result in results))
        self._require_gates(anomaly.shape, original, mm_per_pixel)
        areas = gates.areas(anomaly.shape, original, mm_per_pixel)
        reach = reach_of((anomaly.shape[0], anomaly.shape[1]), [result.on_grid.shape for result in results])
        measured = extents(anomaly, reach)
        levels = [area.level(measured) for area in areas]
        score = max(levels)
        regions = find_regions(measured, calibration, original, areas, mm_per_pixel)
        if evidence:
            regions = self._with_evidence(regions, results, original)
        noise_map, layer_maps = self._noise_and_layer_maps(results, original) if with_maps else (None, None)
        influence = average_maps([np.ascontiguousarray(result.on_grid[:, :, INFLUENCE]) for result in results])
        influence = outside_lowered(influence, self.model.region)
        inspection = Inspection(
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
            zones=tuple(
                ZoneScore(area.name, level, calibration.p_value(level))
                for area, level in zip(areas, levels, strict=True)
                if area.name is not None
            ),
        )
        if pose is None:
            return inspection
        move = partial(moved, pose=pose, size=original)
        in_image = find_regions(measured, calibration, original, areas, mm_per_pixel, move, pose.scale**2)
        return restored(inspection, pose, in_image)

    def _require_gates(self, shape: tuple[int, ...], original: tuple[int, int], mm_per_pixel: MmPerPixel | None) -> None:
        """Raise `ImageError` if no region of an image could pass a gate."""
        problem = self.model.gates.problem(shape, original, mm_per_pixel)
        if problem is not None:
            raise ImageError(problem)

    def _with_evidence(
        self, regions: tuple[Region, ...], results: Sequence[MemberResult], original: tuple[int, int]
    ) -> tuple[Region, ...]:
        """The regions, each with evidence by the member whose map is highest at its peak."""
        leading = [_leading_member(region, results, original) for region in regions]
        explained: dict[int, Region] = {}
        for member, (scorer, result) in enumerate(zip(self.scorers, results, strict=True)):
            own = [at for at, lead in enumerate(leading) if lead == member]
            of_member = scorer.evidence.regions(
                tuple(regions[at] for at in own), result.patches_at, result.values, result.indices, result.network, original
            )
            explained |= dict(zip(own, of_member, strict=True))
        return tuple(explained[at] for at in range(len(regions)))

    def _noise_and_layer_maps(
        self, results: Sequence[MemberResult], original: tuple[int, int]
    ) -> tuple[Float, dict[str, Float]]:
        """(H, W) root mean square over features of the proposed noise, and the share of each layer of each member."""
        noise, layers = [], {}
        several = len(results) > 1
        for scorer, result in zip(self.scorers, results, strict=True):
            assert result.noise is not None
            assert result.layers is not None
            noise.append(result.noise)
            for name, shares in result.layers.items():
                layers[f"{scorer.member.name}:{name}" if several else name] = shares / np.float32(len(results))
        require_finite(*noise, *layers.values())
        region = self.model.region
        return to_original(outside_lowered(average_maps(noise), region), original), {
            name: to_original(outside_lowered(values, region), original) for name, values in layers.items()
        }


def _leading_member(region: Region, results: Sequence[MemberResult], original: tuple[int, int]) -> int:
    """Index of the member whose map is highest at the region's peak."""
    heights = [
        float(result.anomaly[position_at(region.peak_at, (result.anomaly.shape[0], result.anomaly.shape[1]), original)])
        for result in results
    ]
    return int(np.argmax(heights))
