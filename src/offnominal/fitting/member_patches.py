"""The patches of all training images for one member, from raw features to coreset and leave-one-out banks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offnominal.features import ChannelMoments, ChannelStandard
from offnominal.gates import MmPerPixel
from offnominal.images import Geometry
from offnominal.inference import BLOCK, FeatureEngine
from offnominal.memory import (
    Coreset,
    HeldOutBanks,
    PatchRows,
    PatchStore,
    SourceImage,
    Upsampling,
    farthest_from_mean,
    kcenter,
    random_coreset,
)
from offnominal.roi import Layout
from offnominal.types import Index

#: Bytes of the patches of large images that a coreset is selected from.
CANDIDATE_BYTES = 200_000_000


@dataclass(frozen=True)
class TrainingImage:
    """A training image in the order of the fit.

    Attributes
    ----------
    source
        Index in the sources that the user named.
    name
        Name in messages and in the model.
    original
        (H, W) of the original image.
    group
        Group that the user gave; None if there is none.
    unit
        Number of the unit: images of one unit are held out together.
    mm_per_pixel
        Size of its pixels in mm; None for that of the settings.
    """

    source: int
    name: str
    original: tuple[int, int]
    group: str | None
    unit: int
    mm_per_pixel: MmPerPixel | None = None

    @property
    def listed(self) -> SourceImage:
        """The image as a model lists it, without its group."""
        return SourceImage(self.name, self.original, mm_per_pixel=self.mm_per_pixel)


class MemberPatches:
    """The patches of a member. Use as a context manager, which deletes patches spilled to disk.

    Parameters
    ----------
    engine
        Network of the member.
    geometry
        How images are resized for it.
    view
        Index of this geometry in the batches.
    originals
        (H, W) of all images, in the order of the fit.
    memory
        Bytes of patches that stay in memory; more spill to disk.

    Attributes
    ----------
    networks
        (height, width) of the network input of each image.
    rows
        Rows of each image among all patches.
    """

    def __init__(
        self, engine: FeatureEngine, geometry: Geometry, view: int, originals: Sequence[tuple[int, int]], memory: int
    ) -> None:
        self.engine, self.geometry, self.view = engine, geometry, view
        self.networks = [geometry.network_size(original) for original in originals]
        ends = np.cumsum([engine.count(network) for network in self.networks]).tolist()
        self.rows = [slice(end - engine.count(network), end) for end, network in zip(ends, self.networks, strict=True)]
        self._shown: list[Tensor | None] = [None] * len(originals)  # see `FeatureEngine.shown`
        self._store = PatchStore(ends[-1], engine.dimensions, memory)

    def __enter__(self) -> MemberPatches:
        self._store.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._store.__exit__(None, None, None)

    @property
    def count(self) -> int:
        """Number of patches of all images."""
        return int(self.rows[-1].stop)

    @property
    def all(self) -> Tensor:
        """(N, D) patches, image by image."""
        return self._store.patches[: self.count]

    @property
    def layouts(self) -> list[Layout]:
        """Positions of the patches of each image."""
        return [self.engine.layout(network) for network in self.networks]

    def put(self, image: int, patches: Tensor, shown: Tensor | None = None) -> None:
        """Store the (N, D) raw patches of an image, and the numbers of the patches that stand for them."""
        self._shown[image] = None if shown is None else shown.cpu()
        place = self.place(image)
        if patches.data_ptr() != place.data_ptr():  # patches of a large image are there already
            place[:] = patches.cpu()

    def place(self, image: int) -> Tensor:
        """Where the (N, D) patches of an image are stored; writable."""
        return self._store.patches[self.rows[image]]

    def release(self) -> None:
        """Release the memory that access to spilled patches took."""
        self._store.release()

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Drop the images where (n,) `kept` is false, and close the gaps between the patches of the others."""
        rows, networks, at = [], [], 0
        self._shown = [shown for keep, shown in zip(kept, self._shown, strict=True) if keep]
        for keep, old, network in zip(kept, self.rows, self.networks, strict=True):
            if not keep:
                continue
            new = slice(at, at + old.stop - old.start)
            if new != old:  # avoids reading and writing spilled patches
                self._store.patches[new] = self._store.patches[old].clone()
            rows.append(new)
            networks.append(network)
            at = new.stop
        self.rows, self.networks = rows, networks

    def moments(self) -> ChannelMoments:
        """Channel moments of all raw patches."""
        return ChannelMoments.of(self.all, done=self.release)

    def standardise(self, standard: ChannelStandard) -> None:
        """Standardise all patches."""
        for rows, network, shown in zip(self.rows, self.networks, self._shown, strict=True):
            if self.engine.tiled is not None:
                self._standardise_large(rows, network, standard)
                if shown is not None:
                    self._store.patches[rows] = self._store.patches[rows][shown]
            else:
                patches = self.engine.standardise(self._store.patches[rows], standard, network)
                self._store.patches[rows] = patches if shown is None else patches[shown]
            self.release()

    def _standardise_large(self, rows: slice, network: tuple[int, int], standard: ChannelStandard) -> None:
        """Standardise the patches of a large image, a block at a time."""
        assert self.engine.tiled is not None
        positions = torch.from_numpy(self.engine.layout(network).positions)
        for first in range(rows.start, rows.stop, BLOCK):
            block = slice(first, min(first + BLOCK, rows.stop))
            of_block = positions[block.start - rows.start : block.stop - rows.start]
            patches = self._store.patches[block]
            self._store.patches[block] = self.engine.tiled.standardise(patches, standard, network, of_block)
            self.release()

    def upsampling(self, image: int) -> Upsampling | None:
        """How the patches of an image were upsampled; None if some stand for others."""
        return self.engine.upsampling(self.networks[image]) if self._shown[image] is None else None

    def readable(self) -> PatchRows:
        """All patches, for reading by rows and in blocks."""
        return self._store.rows(self.count)

    def held_out_banks(self, units: Sequence[slice], centres: Index, radius: float, bank: Tensor) -> HeldOutBanks:
        """Leave-one-out banks of a coreset; units are slices of images that are held out together. See `HeldOutBanks`."""
        starts = np.array([self.rows[unit.start].start for unit in units])
        upsamplings = [self.upsampling(unit.start) if unit.stop - unit.start == 1 else None for unit in units]
        return HeldOutBanks(self.readable(), starts, centres, radius, self.engine.device, upsamplings, bank)

    def by_image(self, values: Sequence[npt.NDArray[np.float32]], units: Sequence[slice]) -> list[npt.NDArray[np.float32]]:
        """Split (n, S) values of the patches of each unit into those of each image."""
        images: list[npt.NDArray[np.float32]] = []
        for unit, of_unit in zip(units, values, strict=True):
            first = self.rows[unit.start].start
            images += [of_unit[rows.start - first : rows.stop - first] for rows in self.rows[unit]]
        return images

    def locate(self, rows: Index) -> tuple[Index, Index]:
        """Image and position of patches; see `locate`."""
        return locate(rows, np.array([image.start for image in self.rows]), self.layouts)


def choose_coreset(
    patches: PatchRows, size: int, sampler: str, seed: int, tick: Callable[[int], None] = lambda done: None
) -> Coreset:
    """Select a coreset.

    Greedy k-center starts at the patch farthest from the mean, so the result does not depend on the order of the patches. The
    radius of a random coreset is NaN.

    Parameters
    ----------
    size
        Number of patches to select.
    sampler
        `greedy` or `random`.
    seed
        Seed of a random coreset.
    tick
        Called with the number of patches selected so far.
    """
    if sampler == "random":
        return Coreset(random_coreset(len(patches), size, seed), float("nan"))
    return kcenter(patches, size, farthest_from_mean(patches), tick=tick)


def thinned(patches: PatchRows, size: int) -> tuple[PatchRows, int]:
    """Every n-th patch, as many as `CANDIDATE_BYTES` hold but at least `size`, and n. Neighbouring patches are alike.

    Examples
    --------
    >>> rows, step = thinned(PatchRows(torch.zeros(7, 2)), size=3)
    >>> len(rows), step
    (7, 1)
    """
    most = max(size, CANDIDATE_BYTES // (4 * patches.shape[1]))
    step = -(-len(patches) // most)
    return (patches, 1) if step == 1 else (PatchRows(patches[torch.arange(0, len(patches), step)]), step)


def locate(rows: Index, starts: Index, layouts: Sequence[Layout]) -> tuple[Index, Index]:
    """Image and position of patches.

    Parameters
    ----------
    rows
        (n,) rows among the patches of all images.
    starts
        First row of each image.
    layouts
        Positions of the patches of each image.

    Returns
    -------
    image, position
        (n,) index of the image; (n, 2) row and column on its grid.

    Examples
    --------
    >>> image, position = locate(np.array([0, 5]), starts=np.array([0, 4]), layouts=[Layout((4, 4))] * 2)
    >>> image.tolist(), position.tolist()
    ([0, 1], [[1, 1], [1, 2]])
    """
    image = np.searchsorted(starts, rows, side="right") - 1
    position = np.zeros((len(rows), 2), np.int64)
    for at in np.unique(image):
        own = image == at
        position[own] = layouts[at].at(rows[own] - starts[at])
    return image.astype(np.int64), position
