"""Training images -> raw patches of each member, thumbnails, and features of whole images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch

from offnominal.config import Settings
from offnominal.errors import ImageError
from offnominal.fitting.appearance import AppearanceFeatures, AppearanceLearner
from offnominal.fitting.member_patches import MemberPatches, TrainingImage
from offnominal.images import ImageBatch, Preprocessing, Source, ThumbnailStore, thumbnail, views_of
from offnominal.inference import (
    FeatureEngine,
    image_features,
    process_images,
    single_torch_thread,
    threads_for,
)
from offnominal.model import require_finite
from offnominal.observer import Observer
from offnominal.types import Float, Pose

#: Share of the memory limit for the patches of large images, which need memory while they are read as well.
LARGE_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """The images of one shard, and how they are processed.

    Attributes
    ----------
    images
        The images, in the order of the fit.
    sources
        Path or array of each image.
    first, total
        Number of the first image among those of all shards, and their total.
    shards
        Number of shards.
    preprocessing
        From pixels to the view of each member.
    settings
        Settings of the fit.
    """

    images: tuple[TrainingImage, ...]
    sources: tuple[Source, ...]
    first: int
    total: int
    shards: int
    preprocessing: Preprocessing
    settings: Settings


class Extraction:
    """The patches of all members. Use as a context manager, which deletes patches and thumbnails spilled to disk.

    Attributes
    ----------
    images
        The images in the order of the fit; after `run`, those that could be read; after `keep`, those kept.
    members
        Patches of these images, for each member.
    pixel_digests
        Digest of the network pixels of each image after `run`.
    appearance
        Features of whole images, for the drift monitor.
    skipped
        Reason by index in the data, for images that could not be read.
    poses
        Pose of the part in each image; None without alignment.
    """

    def __init__(self, task: ShardTask, engines: Sequence[FeatureEngine], observer: Observer) -> None:
        self.images = list(task.images)
        self.members: list[MemberPatches] = []
        self.pixel_digests: list[bytes] = []
        self.appearance = AppearanceFeatures.none()
        self.skipped: dict[int, str] = {}
        self.poses: list[Pose | None] = [None] * len(task.images)
        self._task, self._engines, self._settings, self._observer = task, engines, task.settings, observer
        self._views = views_of(task.preprocessing.geometries)
        self._stack = ExitStack()
        self._numbers: list[int] = []  # number of each image in the thumbnail store

    def __enter__(self) -> Extraction:
        originals = [image.original for image in self.images]
        sizes = []
        for engine, geometry in zip(self._engines, self._task.preprocessing.geometries, strict=True):
            count = sum(engine.count(geometry.network_size(original)) for original in originals)
            sizes.append(count * engine.dimensions)
        for engine, geometry, size in zip(self._engines, self._task.preprocessing.geometries, sizes, strict=True):
            share = LARGE_SHARE if engine.tiled is not None else 1.0
            memory = round(share * self._settings.memory * (size / sum(sizes)))
            patches = MemberPatches(engine, geometry, self._views.index(geometry), originals, memory)
            self.members.append(self._stack.enter_context(patches))
        self._store = self._stack.enter_context(ThumbnailStore())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self) -> None:
        """Read all images and compute the raw patches of all members."""
        first, task = self._engines[0], self._task
        learner = AppearanceLearner(
            task.total, self._settings.seed, first.maps, first.device, first=task.first, shards=task.shards
        )
        number_of: dict[int, int] = {}
        digests: dict[int, bytes] = {}
        threads = 1 if first.tiled is not None else threads_for(len(self.images), first.device)
        features = process_images(
            task.sources,
            replace(task.preprocessing, geometries=self._views),
            lambda batch: [self._features(batch)],
            lambda batch: sum(member.engine.bytes_of_patches(batch.views[member.view]) for member in self.members),
            threads=threads,
            batch_size=self._settings.batch_size,
            failed=self._skip,
        )
        with single_torch_thread(threads):
            for batch, patches, whole_images in features:
                learner.add(batch, whole_images)
                shown = [member.engine.shown(batch, batch.views[member.view].shape[2:4]) for member in self.members]
                for at, image in enumerate(batch.index):
                    if not self._put(image, [of_member[at] for of_member in patches], [rows[at] for rows in shown]):
                        continue
                    self.poses[image] = batch.poses[at]
                    pixels = np.ascontiguousarray(batch.overview[at])
                    digests[image] = blake2b(pixels.data, digest_size=16).digest()
                    number_of[image] = len(number_of)
                    if self._settings.thumbnails:
                        self._store.add(thumbnail(pixels, batch.original[at]))
                self.report("features", len(number_of), len(self.images))
        self._numbers = [number_of.get(image, -1) for image in range(len(self.images))]
        self.pixel_digests = [digests[image] for image in sorted(digests)]
        self.keep(np.array([image in number_of for image in range(len(self.images))], dtype=np.bool_))
        self.appearance = learner.features()

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Drop the images where (n,) `kept` is false."""
        self.images = [image for image, keep in zip(self.images, kept, strict=True) if keep]
        self._numbers = [number for number, keep in zip(self._numbers, kept, strict=True) if keep]
        self.poses = [pose for pose, keep in zip(self.poses, kept, strict=True) if keep]
        for member in self.members:
            member.keep(kept)

    def thumbnails(self, images: Sequence[int]) -> list[bytes]:
        """Thumbnails of some images."""
        return [self._store.picture(self._numbers[image]) for image in images]

    def report(self, stage: str, done: int, total: int) -> None:
        """Report progress, and release the memory that access to spilled patches took."""
        for member in self.members:
            member.release()
        self._observer.on_progress(stage, done, total)

    def _features(self, batch: ImageBatch) -> tuple[ImageBatch, list[torch.Tensor], Float]:
        """The batch, the (B, N, D) raw patches of each member, and the features of whole images."""
        if self._engines[0].tiled is not None:
            whole_images = image_features(batch, self._engines[0].maps(batch.network_input(0)))
            require_finite(whole_images)
            (image,) = batch.index
            return batch, [self._large_patches(batch, image, member)[None] for member in self.members], whole_images
        maps = [member.engine.maps(batch.network_input(member.view)) for member in self.members]
        whole_images = image_features(batch, maps[0])
        require_finite(whole_images, *maps)
        patches = [
            member.engine.patches_of(of_member, batch.views[member.view].shape[2:4])
            for member, of_member in zip(self.members, maps, strict=True)
        ]
        return batch, patches, whole_images

    def _large_patches(self, batch: ImageBatch, image: int, member: MemberPatches) -> torch.Tensor:
        """The (N, D) raw patches of a large image, which are written to their place in the store tile by tile."""
        place = member.place(image)
        _, _, height, width = batch.views[member.view].shape
        if len(place) != member.engine.count((height, width)):
            raise ImageError(f"{self.images[image].name}: changed during the fit; fit again")
        return member.engine.large_patches(batch, member.view, place, member.release)

    def _put(self, image: int, patches: Sequence[torch.Tensor], shown: Sequence[torch.Tensor | None]) -> bool:
        """Store the patches of an image; False if its size has changed since the survey."""
        expected = [member.rows[image].stop - member.rows[image].start for member in self.members]
        if [len(of_member) for of_member in patches] != expected:
            self._skip(image, ImageError(f"{self.images[image].name}: changed during the fit; fit again"))
            return False
        for member, of_member, rows in zip(self.members, patches, shown, strict=True):
            member.put(image, of_member, rows)
        return True

    def _skip(self, image: int, error: ImageError) -> None:
        self.skipped[self.images[image].source] = str(error)
