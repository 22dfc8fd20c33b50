"""Where the patches of every image stand among all patches of a fit, and where a patch comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from offnominal.types import Index, whole, whole_grid


@dataclass(frozen=True)
class Placed:
    """Where an image's patches stand in the store, and its picture among those kept."""

    source: int
    picture: int
    rows: slice
    original: tuple[int, int]
    network: tuple[int, int]


def whence(rows: Index, starts: Index, grids: Sequence[Sequence[tuple[int, int]]]) -> tuple[Index, Index]:
    """(n,) rows among patches of images that begin at `starts` -> (n,) image of each, and (n, 3) segment, row and column."""
    image = np.searchsorted(starts, rows, side="right") - 1
    places = [_place(int(row), grids[at]) for row, at in zip(rows - starts[image], image, strict=True)]
    return image.astype(np.int64), np.array(places, dtype=np.int64).reshape(-1, 3)


def without(patches: torch.Tensor, placed: list[Placed], leave: npt.NDArray[np.bool_]) -> tuple[list[Placed], torch.Tensor]:
    """The images that are not left out, their patches moved together at the beginning of the store."""
    kept: list[Placed] = []
    row = 0
    for place, out in zip(placed, leave, strict=True):
        if out:
            continue
        rows = slice(row, row + place.rows.stop - place.rows.start)
        if rows != place.rows:  # otherwise nothing is read, nor written, of what may lie on disk
            patches[rows] = patches[place.rows].clone()
        kept.append(replace(place, rows=rows))
        row = rows.stop
    return kept, patches[:row]


def _place(row: int, grids: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Row among an image's patches -> (segment, row, column)."""
    for segment, grid in enumerate(grids):
        height, width = whole_grid(grid)
        if row < height * width:
            rows, columns = whole(grid)
            return segment, rows.start + row // width, columns.start + row % width
        row -= height * width
    raise AssertionError("a patch outside its image")
