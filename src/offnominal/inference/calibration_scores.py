"""Held-out signals of the training images -> normal statistics and calibration scores; used by fit and update."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from offnominal.config import Settings
from offnominal.gates import extents, image_score, reach_of
from offnominal.memory import SourceImage
from offnominal.model import Model
from offnominal.roi import RegionOfInterest, outside_lowered
from offnominal.scoring import NormalSignals, NormalSignalsBuilder, average_maps, member_map
from offnominal.types import Float

#: Held-out signals of one member: (h, w, S) for each image, and the (height, width) of each network input.
MemberSignals = tuple[Sequence[Float], Sequence[tuple[int, int]]]


def normal_signals(signals: Sequence[Float], region: RegionOfInterest | None = None) -> NormalSignals:
    """Statistics of the held-out (h, w, S) signals of all images in the region of interest.

    Examples
    --------
    >>> normal = normal_signals([np.full((2, 2, 3), value, np.float32) for value in (1.0, 3.0)])
    >>> normal.mean, normal.deviation
    (array([2., 2., 2.], dtype=float32), array([1., 1., 1.], dtype=float32))
    """
    return statistics_of(signals, region).build()


def statistics_of(signals: Sequence[Float], region: RegionOfInterest | None = None) -> NormalSignalsBuilder:
    """Sums of the held-out (h, w, S) signals of all images in the region of interest, for `held_out_maps`."""
    builder = NormalSignalsBuilder(region)
    for image in signals:
        builder.add(image)
    return builder


def held_out_maps(
    members: Sequence[MemberSignals],
    settings: Settings,
    together: Sequence[Hashable | None] = (),
    statistics: Sequence[NormalSignalsBuilder] = (),
) -> list[Float]:
    """Anomaly map of each training image, standardised by the statistics of the others.

    Parameters
    ----------
    members
        Held-out signals of each member.
    settings
        Fusion, smoothing and leakage suppression.
    together
        A key for each image. Images with equal keys are held out together; an image with None, on its own. Empty: all on their
        own.
    statistics
        For each member, the sums over these and all other training images; by default over these images.

    Returns
    -------
    list of arrays
        (height / 4, width / 4) float32 in standard deviations; higher is more anomalous.

    Examples
    --------
    >>> from offnominal.config import settings_from
    >>> signals = [np.full((8, 8, 3), value, np.float32) for value in (1.0, 2.0, 9.0)]
    >>> maps = held_out_maps([(signals, [(64, 64)] * 3)], settings_from())
    >>> len(maps), maps[0].shape
    (3, (16, 16))
    """
    together = together or [None] * len(members[0][0])
    statistics = statistics or [statistics_of(signals, settings.region) for signals, _ in members]
    maps = (_member_maps(*member, settings, together, of_member) for member, of_member in zip(members, statistics, strict=True))
    return [outside_lowered(average_maps(of_image), settings.region) for of_image in zip(*maps, strict=True)]


def scores_of_maps(
    maps: Sequence[Float], members: Sequence[Sequence[Float]], images: Sequence[SourceImage], settings: Settings
) -> Float:
    """(n,) float32 scores of anomaly maps of training images, with the gates of the settings.

    Parameters
    ----------
    maps
        (h, w) map of each image.
    members
        For each member, its signals of each image, whose grids tell how far a defect reaches.
    images
        Sizes of the images, and of their pixels.
    settings
        Gates and zones.

    Examples
    --------
    >>> from offnominal.config import settings_from
    >>> anomaly_map = np.array([[9.0, 0.0, 3.0, 3.0]], np.float32)
    >>> image = SourceImage("a.png", size=(1, 4))
    >>> signals = [np.zeros((1, 2, 3), np.float32)]
    >>> for area in ("1px2", "2px2"):
    ...     scores_of_maps([anomaly_map], [signals], [image], settings_from(min_area=area)).tolist()
    [9.0]
    [0.0]
    """
    gates, scores = settings.gates, []
    for values, of_image, image in zip(maps, zip(*members, strict=True), images, strict=True):
        measured = extents(values, reach_of((values.shape[0], values.shape[1]), [signals.shape for signals in of_image]))
        scores.append(image_score(measured, gates.areas(values.shape, image.size, image.mm_per_pixel)))
    return np.array(scores, dtype=np.float32)


def held_out_scores(
    members: Sequence[MemberSignals],
    settings: Settings,
    images: Sequence[SourceImage],
    together: Sequence[Hashable | None] = (),
) -> Float:
    """Calibration scores: the score of each map of `held_out_maps`.

    Parameters
    ----------
    members, settings, together
        As in `held_out_maps`.
    images
        As in `scores_of_maps`.

    Returns
    -------
    array
        (n,) float32; higher is more anomalous.

    Examples
    --------
    >>> from offnominal.config import settings_from
    >>> signals = [np.full((8, 8, 3), value, np.float32) for value in (1.0, 2.0, 9.0)]
    >>> images = [SourceImage(name, (64, 64)) for name in "abc"]
    >>> held_out_scores([(signals, [(64, 64)] * 3)], settings_from(), images).argmax()
    np.int64(2)
    """
    maps = held_out_maps(members, settings, together)
    return scores_of_maps(maps, [signals for signals, _ in members], images, settings)


def scores_of_model(model: Model) -> Float:
    """(n,) float32 held-out scores of the training images of a model; higher is more anomalous.

    Examples
    --------
    >>> from pathlib import Path
    >>> from offnominal.model import load_model
    >>> model = load_model(Path("part.safetensors"))  # doctest: +SKIP
    >>> (scores_of_model(model) > model.calibration.threshold).mean()  # doctest: +SKIP
    np.float64(0.0)
    """
    members = [(member.held_out.signals, model.networks(member)) for member in model.members]
    return held_out_scores(members, model.settings, model.sources, [source.group for source in model.sources])


def _member_maps(
    signals: Sequence[Float],
    networks: Sequence[tuple[int, int]],
    settings: Settings,
    together: Sequence[Hashable | None],
    statistics: NormalSignalsBuilder,
) -> list[Float]:
    of_key: dict[Hashable, list[Float]] = {}
    for image, key in zip(signals, together, strict=True):
        of_key.setdefault(key, []).append(image)
    return [
        member_map(
            image,
            statistics.without(*([image] if key is None else of_key[key])),
            weights=settings.fusion.weights,
            network=network,
            sigma=settings.smoothing,
            halo=settings.halo,
        )
        for image, network, key in zip(signals, networks, together, strict=True)
    ]
