"""Training images -> standardised patches of each member, thumbnails, and statistics of whole images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch

from offnominal.config import Settings
from offnominal.decisions import Appearance
from offnominal.errors import ImageError
from offnominal.fitting.appearance import AppearanceLearner
from offnominal.fitting.member_patches import MemberPatches
from offnominal.fitting.training_set import TrainingSet, require_enough
from offnominal.images import ImageBatch, Thumbnails, ThumbnailStore, thumbnail
from offnominal.inference import (
    FeatureEngine,
    image_features,
    interior_patches,
    process_images,
    single_torch_thread,
    threads_for,
)
from offnominal.model import Member, require_finite
from offnominal.observer import Observer
from offnominal.types import Float


class Extraction:
    """The patches of all members. Use as a context manager, which deletes patches and thumbnails spilled to disk.

    Attributes
    ----------
    images
        The images in the order of the fit; after `run`, those that could be read; after `keep`, those kept.
    members
        Patches of these images, for each member.
    appearance
        Statistics of whole images for the drift monitor; None with too few images.
    duplicates
        Pairs of names: an image, and an earlier image with the same pixels.
    skipped
        Reason by index in the sources, for images that could not be read.
    """

    def __init__(self, training: TrainingSet, engines: Sequence[FeatureEngine], settings: Settings, observer: Observer) -> None:
        self.images = list(training.images)
        self.members: list[MemberPatches] = []
        self.appearance: Appearance | None = None
        self.duplicates: list[tuple[str, str]] = []
        self.skipped = dict(training.skipped)
        self._training, self._engines, self._settings, self._observer = training, engines, settings, observer
        self._views = tuple(dict.fromkeys(training.geometries))
        self._stack = ExitStack()
        self._numbers: list[int] = []  # number of each image in the thumbnail store

    def __enter__(self) -> Extraction:
        originals = [image.original for image in self.images]
        total = sum(member.patches * member.dimensions for member in self._training.plan.members)
        for engine, geometry, plan in zip(self._engines, self._training.geometries, self._training.plan.members, strict=True):
            memory = round(self._settings.memory * (plan.patches * plan.dimensions / total))
            patches = MemberPatches(engine, geometry, self._views.index(geometry), originals, memory)
            self.members.append(self._stack.enter_context(patches))
        self._store = self._stack.enter_context(ThumbnailStore())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self) -> None:
        """Read all images; compute and standardise the patches of all members.

        Raises
        ------
        InputError
            If fewer than two images can be read.
        """
        first = self._engines[0]
        learner = AppearanceLearner(len(self.images), self._settings.seed, first.maps, first.device)
        number_of: dict[int, int] = {}
        first_with: dict[bytes, int] = {}
        threads = threads_for(len(self.images), first.device)
        features = process_images(
            [self._training.sources[image.source].source for image in self.images],
            self._views,
            self._training.values,
            lambda batch: [self._features(batch)],
            lambda batch: sum(member.engine.bytes_of_patches(batch.views[member.view]) for member in self.members),
            threads=threads,
            batch_size=self._settings.batch_size,
            failed=self._skip,
            memory=self._settings.memory,
        )
        with single_torch_thread(threads):
            for batch, patches, whole_images in features:
                learner.add(batch, whole_images)
                for at, image in enumerate(batch.index):
                    if not self._put(image, [of_member[at] for of_member in patches]):
                        continue
                    pixels = np.ascontiguousarray(batch.views[0][at])
                    original = first_with.setdefault(blake2b(pixels.data, digest_size=16).digest(), image)
                    if original != image:
                        self.duplicates.append((self.images[image].name, self.images[original].name))
                    number_of[image] = len(number_of)
                    if self._settings.thumbnails:
                        self._store.add(thumbnail(pixels, batch.original[at]))
                self.report("features", len(number_of), len(self.images))
        require_enough(len(number_of), self.skipped)
        self._numbers = [number_of.get(image, -1) for image in range(len(self.images))]
        self.keep(np.array([image in number_of for image in range(len(self.images))]))
        for member in self.members:
            member.standardise()
        self.appearance = learner.build()

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Drop the images where (n,) `kept` is false. Raises `InputError` if fewer than two remain."""
        require_enough(int(kept.sum()), self.skipped)
        self.images = [image for image, keep in zip(self.images, kept, strict=True) if keep]
        self._numbers = [number for number, keep in zip(self._numbers, kept, strict=True) if keep]
        for member in self.members:
            member.keep(kept)

    def thumbnails(self, members: Sequence[Member]) -> Thumbnails:
        """A thumbnail of each image; empty for images without a patch in any bank."""
        in_banks = np.unique(np.concatenate([member.bank.image for member in members])).tolist()
        return self._store.subset({self._numbers[image] for image in in_banks}, self._numbers)

    def report(self, stage: str, done: int, total: int) -> None:
        """Report progress, and release the memory that access to spilled patches took."""
        for member in self.members:
            member.release()
        self._observer.on_progress(stage, done, total)

    def _features(self, batch: ImageBatch) -> tuple[ImageBatch, list[torch.Tensor], Float]:
        """The batch, the (B, N, D) raw patches of each member, and the features of whole images."""
        maps = [member.engine.maps(batch.network_input(member.view)) for member in self.members]
        whole_images = image_features(batch, maps[0])
        require_finite(whole_images, *maps)
        return batch, [interior_patches(of_member) for of_member in maps], whole_images

    def _put(self, image: int, patches: Sequence[torch.Tensor]) -> bool:
        """Store the patches of an image; False if its size has changed since the survey."""
        expected = [member.rows[image].stop - member.rows[image].start for member in self.members]
        if [len(of_member) for of_member in patches] != expected:
            self._skip(image, ImageError(f"{self.images[image].name}: changed during the fit; fit again"))
            return False
        for member, of_member in zip(self.members, patches, strict=True):
            member.put(image, of_member)
        return True

    def _skip(self, image: int, error: ImageError) -> None:
        self.skipped[self.images[image].source] = str(error)
