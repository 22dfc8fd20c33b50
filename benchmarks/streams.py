"""The drift monitor on streams of real images, with and without disturbances: warnings and delays. Used by `alarms.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from offnominal.config import settings_from
from offnominal.decisions import DriftTest, learn_appearance
from offnominal.features import parse_members
from offnominal.fitting.appearance import MAX_DISTURBED
from offnominal.fitting.survey import EXPOSURE_IMAGES, common_exposure
from offnominal.images import DISTURBANCES, EIGHT_BIT, Preprocessing, batches, pixels_of, raise_unreadable
from offnominal.inference import FeatureEngine, image_features
from tables import table

STREAMS, ORDERS, APPEARANCES, FALSE_WARNINGS = 1000, 100, 20, 0.01
Picture = Any


def _eight(pixels: Picture) -> Picture:
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


#: Disturbances of a stream, on decoded 8-bit images. All variants lose two rows and columns, so that a shift needs no padding.
STREAM: dict[str, Callable[[Picture], Picture]] = {
    "none": lambda a: a[:-2, :-2],
    "gain + 10 %": lambda a: _eight(a[:-2, :-2] * 1.1),
    "gain - 10 %": lambda a: _eight(a[:-2, :-2] * 0.9),
    "level + 10 % of the range": lambda a: _eight(a[:-2, :-2] + 25.5),
    "blur, sigma 1 pixel": lambda a: cv2.GaussianBlur(np.ascontiguousarray(a[:-2, :-2]), (0, 0), 1.0),
    "shift by 2 pixels, both ways": lambda a: a[2:, 2:],
}


class Streams:
    """Features of whole images, with and without disturbances, and random streams of them."""

    def __init__(self, good: list[Any], bad: list[Any], train: int) -> None:
        settings = settings_from()
        engine = FeatureEngine(settings, parse_members(settings.backbone)[0])
        pictures = [pixels_of(source) for source in good]
        rng = np.random.default_rng(5)
        self.train = train
        # The images that set the exposure are not in the reference or the stream, as in a fit on many images.
        self.learners = np.sort(rng.permutation(len(good))[: min(EXPOSURE_IMAGES, train // 2)])
        geometry = engine.geometry([picture.shape[:2] for picture in pictures])
        exposure = common_exposure([pictures[at] for at in self.learners], Preprocessing((geometry,), EIGHT_BIT))
        self.geometry, self.values = geometry, replace(EIGHT_BIT, exposure=exposure)
        self.features = {name: self._of([change(p) for p in pictures], engine) for name, change in STREAM.items()}
        plain = [STREAM["none"](pictures[at]) for at in self.learners]
        self.moved = {name: self._of(plain, engine, change) for name, change in DISTURBANCES.items()}
        some = [bad[at] for at in rng.permutation(len(bad))[:100]]
        self.bad = self._of([STREAM["none"](pixels_of(source)) for source in some], engine)

    def _of(
        self, pictures: list[Any], engine: FeatureEngine, change: Callable[[Any], Any] | None = None
    ) -> np.ndarray[Any, Any]:
        by_index: dict[int, Any] = {}
        for batch in batches(pictures, Preprocessing((self.geometry,), self.values), batch_size=16, failed=raise_unreadable):
            if change is not None:
                batch = replace(batch, views=(np.stack([change(image) for image in batch.overview]),))
            by_index.update(zip(batch.index, image_features(batch, engine.maps(batch.network_input(0))), strict=True))
        return np.array([by_index[at] for at in sorted(by_index)])

    def draws(self, count: int, appearances: int) -> Any:
        """Yield (appearance, indices of the images of the stream, rng). Several streams share one learned appearance."""
        clean = self.features["none"]
        for number in range(appearances):
            rng = np.random.default_rng([6, number])
            fitted = self.train // 2
            chosen = rng.permutation(len(self.learners))[:MAX_DISTURBED]
            others = rng.permutation(np.setdiff1d(np.arange(len(clean)), self.learners))
            fitting_half = np.concatenate([self.learners, others[: fitted - len(self.learners)]])
            rest = others[fitted - len(self.learners) :]
            moved = {name: (clean[self.learners[chosen]], after[chosen]) for name, after in self.moved.items()}
            appearance = learn_appearance(clean[fitting_half], moved, clean[rest[: self.train - fitted]])
            for draw in range(count // appearances):
                order = np.random.default_rng([7, number, draw]).permutation(rest)
                reference = appearance.statistics(clean[order[: self.train - fitted]])
                yield replace(appearance, reference=reference), order[self.train - fitted :], rng

    def false_warnings(self, bad_share: float, count: int) -> dict[str, Any]:
        warnings, length = [], 0
        for number, (appearance, stream, rng) in enumerate(self.draws(count, APPEARANCES)):
            features = self.features["none"][stream].copy()
            replaced = np.flatnonzero(rng.random(len(features)) < bad_share)
            features[replaced] = self.bad[rng.integers(len(self.bad), size=len(replaced))]
            test = DriftTest(appearance.reference, number)
            test.update(appearance.statistics(features))
            warnings.append(test.warns(FALSE_WARNINGS))
            length = len(stream)
        return {"streams": len(warnings), "images": length, "bad": bad_share, "warned": float(np.mean(warnings))}

    def delays(self, name: str, before: int) -> dict[str, Any]:
        delays: list[float] = []
        causes: dict[str, int] = {}
        for number, (appearance, stream, _) in enumerate(self.draws(ORDERS, APPEARANCES)):
            features = np.concatenate([self.features["none"][stream[:before]], self.features[name][stream[before:]]])
            test = DriftTest(appearance.reference, number)
            log_capital = test.update(appearance.statistics(features))
            warnings = np.flatnonzero(log_capital.max(axis=1) >= -np.log(FALSE_WARNINGS))
            delays.append(float(warnings[0] + 1 - before) if len(warnings) else np.inf)
            if len(warnings):
                cause = appearance.names[int(log_capital[warnings[0]].argmax())]
                causes[cause] = causes.get(cause, 0) + 1
        median = float(np.median(delays))
        return {
            "disturbance": name,
            "before": before,
            "images": len(stream) - before,
            "median": median if np.isfinite(median) else None,
            "noticed": float(np.isfinite(delays).mean()),
            "causes": dict(sorted(causes.items(), key=lambda entry: -entry[1])),
        }


def synthetic_streams(reference: int, images: int) -> dict[str, Any]:
    """False warnings on long synthetic streams of seven correlated statistics. Real sets are too small for such streams."""
    warnings = []
    mixing = np.random.default_rng(8).normal(size=(7, 7)) + 2 * np.eye(7)
    for number in range(STREAMS):
        rng = np.random.default_rng([9, number])
        test = DriftTest((rng.standard_t(4, (reference, 7)) @ mixing).astype(np.float32), number)
        test.update((rng.standard_t(4, (images, 7)) @ mixing).astype(np.float32))
        warnings.append(test.warns(FALSE_WARNINGS))
    return {"streams": STREAMS, "reference": reference, "images": images, "warned": float(np.mean(warnings))}


def stream_results(good: list[Any], bad: list[Any]) -> dict[str, Any]:
    """Results of a set: fits on half of the good images (at most 200), and streams of at most 200 others."""
    chosen = np.random.default_rng(4).permutation(len(good))[:400]
    streams = Streams([good[at] for at in chosen], bad, train=len(chosen) // 2)
    result: dict[str, Any] = {"train": streams.train}
    result["false_warnings"] = [streams.false_warnings(0.0, STREAMS), streams.false_warnings(0.1, 200)]
    result["delays"] = [
        streams.delays(disturbance, before)
        for before in ((0, 50) if len(good) > 100 else (0,))
        for disturbance in STREAM
        if disturbance != "none"
    ]
    return result


def stream_tables(results: dict[str, Any]) -> list[str]:
    """Text and tables of the streams of all sets and of the synthetic streams."""
    sets = results["sets"]
    return [
        f"**Streams: false warnings** at a stated {FALSE_WARNINGS:.0%} over the whole stream; random orders of good "
        "images that were not fitted on, also with a tenth of them replaced by defective ones. Percent.",
        table(
            ("set", "fitted on", "streams", "images", "defective", "warned"),
            [
                [
                    name,
                    str(result["train"]),
                    str(r["streams"]),
                    str(r["images"]),
                    f"{r['bad']:.0%}",
                    f"{100 * r['warned']:.2f}",
                ]
                for name, result in sets.items()
                for r in result.get("false_warnings", [])
            ]
            + [
                [
                    "synthetic, 7 correlated heavy-tailed statistics",
                    f"{2 * r['reference']}",
                    str(r["streams"]),
                    str(r["images"]),
                    "0%",
                    f"{100 * r['warned']:.2f}",
                ]
                for r in results.get("made", [])
            ],
        ),
        f"**Streams: images until a disturbance is noticed**, median of {ORDERS} random orders (– where fewer than half of the "
        "streams, which are as long as the set allows, were enough).",
        table(
            ("set", "disturbance", "undisturbed before", "disturbed images", "median", "noticed, %", "cause reported"),
            [
                [
                    name,
                    r["disturbance"],
                    str(r["before"]),
                    str(r["images"]),
                    "–" if r["median"] is None else f"{r['median']:.0f}",
                    f"{100 * r['noticed']:.0f}",
                    ", ".join(f"{cause} {times}" for cause, times in r["causes"].items()) or "–",
                ]
                for name, result in sets.items()
                for r in result.get("delays", [])
            ],
        ),
    ]
