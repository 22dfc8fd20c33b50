"""Training images -> standardised patches of every member, thumbnails, and statistics of whole images."""

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
from offnominal.inference import FeatureEngine, image_features, interior_patches, one_beside, threads_for, work_through
from offnominal.model import Member, require_numbers
from offnominal.observer import Observer
from offnominal.types import Float


class Extraction:
    """The patches of all members. Use as a context manager: patches and thumbnails that spilled to disk go when it closes.

    Attributes
    ----------
    images
        The images that could be read, in the order of the fit; fewer after `keep`.
    members
        The patches of each member, for the same images.
    appearance
        Statistics of whole images for the drift monitor; None with too few images.
    duplicates
        Pairs of names: an image, and an earlier one with the same pixels.
    skipped
        Reason by index among all sources.
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
        self._pictures: list[int] = []  # the number of each image in the thumbnail store

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
        """Fill and standardise the patches of all members.

        Raises
        ------
        InputError
            Fewer than two images can be read.
        """
        first = self._engines[0]
        learner = AppearanceLearner(len(self.images), self._settings.seed, first.maps, first.device)
        picture_of: dict[int, int] = {}
        same_pixels: dict[bytes, int] = {}
        threads = threads_for(len(self.images), first.device)
        features = work_through(
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
        with one_beside(threads):
            for batch, patches, whole_images in features:
                learner.add(batch, whole_images)
                for at, number in enumerate(batch.index):
                    if not self._put(number, [of_member[at] for of_member in patches]):
                        continue
                    pixels = np.ascontiguousarray(batch.views[0][at])
                    original = same_pixels.setdefault(blake2b(pixels.data, digest_size=16).digest(), number)
                    if original != number:
                        self.duplicates.append((self.images[number].name, self.images[original].name))
                    picture_of[number] = len(picture_of)
                    if self._settings.thumbnails:
                        self._store.add(thumbnail(pixels, batch.original[at]))
                self.report("features", len(picture_of), len(self.images))
        require_enough(len(picture_of), self.skipped)
        self._pictures = [picture_of.get(number, -1) for number in range(len(self.images))]
        self.keep(np.array([number in picture_of for number in range(len(self.images))]))
        for member in self.members:
            member.standardise()
        self.appearance = learner.build()

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Go on with the images where (n,) `kept` is true. Raises `InputError` if they are fewer than two."""
        require_enough(int(kept.sum()), self.skipped)
        self.images = [image for image, keep in zip(self.images, kept, strict=True) if keep]
        self._pictures = [picture for picture, keep in zip(self._pictures, kept, strict=True) if keep]
        for member in self.members:
            member.keep(kept)

    def thumbnails(self, members: Sequence[Member]) -> Thumbnails:
        """A thumbnail of every image, empty if no bank holds a patch of it."""
        in_banks = np.unique(np.concatenate([member.bank.image for member in members])).tolist()
        return self._store.only({self._pictures[image] for image in in_banks}, self._pictures)

    def report(self, stage: str, done: int, total: int) -> None:
        """Report progress, and release the memory of patches on disk that were read or written so far."""
        for member in self.members:
            member.release()
        self._observer.on_progress(stage, done, total)

    def _features(self, batch: ImageBatch) -> tuple[ImageBatch, list[torch.Tensor], Float]:
        """The batch, the (B, N, D) raw patches of each member, and the features of whole images."""
        maps = [member.engine.maps(batch.seen(member.view)) for member in self.members]
        whole_images = image_features(batch, maps[0])
        require_numbers(whole_images, *maps)
        return batch, [interior_patches(of_member) for of_member in maps], whole_images

    def _put(self, number: int, patches: Sequence[torch.Tensor]) -> bool:
        """Store the patches of an image; False if its size is not that of the survey."""
        expected = [member.rows[number].stop - member.rows[number].start for member in self.members]
        if [len(of_member) for of_member in patches] != expected:
            self._skip(number, ImageError(f"{self.images[number].name}: changed during the fit; fit again"))
            return False
        for member, of_member in zip(self.members, patches, strict=True):
            member.put(number, of_member)
        return True

    def _skip(self, number: int, error: ImageError) -> None:
        self.skipped[self.images[number].source] = str(error)
