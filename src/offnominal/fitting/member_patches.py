"""The patches of all training images for one member, from raw features to bank and held-out signals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offnominal.config import Settings
from offnominal.features import ChannelStandard, channel_standard
from offnominal.images import Geometry
from offnominal.inference import FeatureEngine
from offnominal.memory import (
    Coreset,
    HeldOutBanks,
    MemoryBank,
    PatchRows,
    PatchStore,
    farthest_from_mean,
    kcenter,
    random_coreset,
)
from offnominal.types import Index, interior, interior_shape

Tick = Callable[[int], None]


@dataclass(frozen=True)
class TrainingImage:
    """A training image in the fit: `source` is its place in the data, `unit` the images that are held out with it."""

    source: int
    name: str
    original: tuple[int, int]
    group: str | None
    unit: int


class MemberPatches:
    """The patches of a member. Use as a context manager: those that spilled to disk go when it closes.

    Args:
        engine: of the member; `geometry` and `view` say how images are resized for it.
        originals: (H, W) of all images, in the order of the fit.
        memory: bytes of patches that stay in memory.
    """

    def __init__(
        self, engine: FeatureEngine, geometry: Geometry, view: int, originals: Sequence[tuple[int, int]], memory: int
    ) -> None:
        self.engine, self.geometry, self.view = engine, geometry, view
        self.networks = [geometry.network_size(original) for original in originals]
        ends = np.cumsum([engine.count(network) for network in self.networks]).tolist()
        self.rows = [slice(end - engine.count(network), end) for end, network in zip(ends, self.networks, strict=True)]
        self._store = PatchStore(ends[-1], engine.dimensions, memory)
        self.standard: ChannelStandard | None = None

    def __enter__(self) -> MemberPatches:
        self._store.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._store.__exit__(None, None, None)

    @property
    def count(self) -> int:
        """Patches of all images."""
        return int(self.rows[-1].stop)

    @property
    def all(self) -> Tensor:
        """(N, D) patches of all images, one image after another."""
        return self._store.patches[: self.count]

    @property
    def grids(self) -> list[tuple[int, int]]:
        """The grid of every image."""
        return [self.engine.grid(network) for network in self.networks]

    def put(self, image: int, patches: Tensor) -> None:
        """Store the (N, D) raw patches of an image."""
        self._store.patches[self.rows[image]] = patches.cpu()

    def release(self) -> None:
        """Give back the memory that reading or writing patches on disk took."""
        self._store.release()

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Go on with some of the images; their patches are moved together."""
        rows, networks, at = [], [], 0
        for keep, old, network in zip(kept, self.rows, self.networks, strict=True):
            if not keep:
                continue
            new = slice(at, at + old.stop - old.start)
            if new != old:  # otherwise nothing is read or written of what may be on disk
                self._store.patches[new] = self._store.patches[old].clone()
            rows.append(new)
            networks.append(network)
            at = new.stop
        self.rows, self.networks = rows, networks

    def standardise(self) -> None:
        """Standardise all patches by their own channel statistics."""
        self.standard = channel_standard(self.all, done=self.release)
        for rows, network in zip(self.rows, self.networks, strict=True):
            self._store.patches[rows] = self.engine.standardise(self._store.patches[rows], self.standard, network)
            self.release()

    def readable(self) -> PatchRows:
        """All patches for reading by rows and in blocks."""
        return self._store.rows(self.count)

    def held_out_banks(self, units: Sequence[slice], coreset: Coreset) -> HeldOutBanks:
        """Leave-one-out banks of the units, slices of images that are held out together."""
        starts = np.array([self.rows[unit.start].start for unit in units])
        upsamplings = [
            self.engine.upsampling(self.networks[unit.start]) if unit.stop - unit.start == 1 else None for unit in units
        ]
        return HeldOutBanks(self.readable(), starts, coreset.indices, coreset.radius, self.engine.device, upsamplings)

    def by_image(self, values: Sequence[npt.NDArray[np.float32]], units: Sequence[slice]) -> list[npt.NDArray[np.float32]]:
        """(n, S) values of the patches of every unit -> of every image."""
        found: list[npt.NDArray[np.float32]] = []
        for unit, of_unit in zip(units, values, strict=True):
            first = self.rows[unit.start].start
            found += [of_unit[rows.start - first : rows.stop - first] for rows in self.rows[unit]]
        return found

    def bank(self, coreset: Coreset) -> MemoryBank:
        """The memory bank of a coreset."""
        image, position = self.whence(coreset.indices)
        patches = self.readable()[torch.from_numpy(coreset.indices)]
        return MemoryBank(patches, image, position, None if np.isnan(coreset.radius) else coreset.radius)

    def whence(self, rows: Index) -> tuple[Index, Index]:
        """(n,) rows among all patches -> (n,) image of each, and (n, 2) its row and column on the image's grid."""
        return whence(rows, np.array([one.start for one in self.rows]), self.grids)


def choose(patches: PatchRows, size: int, settings: Settings, tick: Tick = lambda done: None) -> Coreset:
    """The coreset of all these patches.

    The greedy choice starts at the patch farthest from their mean, so that it depends on the patches alone and not on their
    order. The radius of a random coreset is not a number.
    """
    if settings.sampler == "random":
        return Coreset(random_coreset(len(patches), size, settings.seed), float("nan"))
    return kcenter(patches, size, farthest_from_mean(patches), tick=tick)


def whence(rows: Index, starts: Index, grids: Sequence[tuple[int, int]]) -> tuple[Index, Index]:
    """(n,) rows among patches of images that begin at `starts` -> (n,) image of each, and (n, 2) row and column there."""
    image = np.searchsorted(starts, rows, side="right") - 1
    firsts = np.array([[part.start for part in interior(grid)] for grid in grids], dtype=np.int64).reshape(-1, 2)
    widths = np.array([interior_shape(grid)[1] for grid in grids], dtype=np.int64)
    row, column = np.divmod(rows - starts[image], widths[image])
    return image.astype(np.int64), np.stack([row, column], axis=1) + firsts[image]
