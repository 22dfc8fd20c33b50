"""Events of long operations: a fit, an audit, an update, an inspection, an evaluation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MemberPlan:
    """The part of a `Plan` that concerns one member.

    Attributes
    ----------
    name
        The member's name, such as `efficientnet-lite0@1.5`.
    patches
        Patches of all images.
    dimensions
        Features of a patch.
    bank
        Patches of the memory bank.
    spacing
        Original pixels between neighbouring patches, down or across, whichever is more; the median over images.
    enlarged
        Factor by which images are enlarged for the network, the median over images; at most 1 if they are shrunk.
    """

    name: str
    patches: int
    dimensions: int
    bank: int
    spacing: float
    enlarged: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a fit or an audit is going to do.

    Attributes
    ----------
    images
        Number of images.
    members
        The plan of each member.
    bytes
        Size of the patches of all members.
    on_disk
        Whether they spill to a temporary file.
    """

    images: int
    members: tuple[MemberPlan, ...]
    bytes: int
    on_disk: bool


class Observer:
    """Receives events. Subclass it and override the methods that you need; each does nothing by default.

    All methods are called in the thread that called the detector.

    Examples
    --------
    >>> class Printer(Observer):
    ...     def on_progress(self, stage: str, done: int, total: int) -> None:
    ...         print(f"{stage}: {done} of {total}")
    >>> Printer().on_progress("features", 3, 10)
    features: 3 of 10
    """

    def on_plan(self, plan: Plan) -> None:
        """Called once, after the images were surveyed and before the work starts."""

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Called during a stage, with `done` rising to `total`."""

    def on_note(self, text: str) -> None:
        """Called with a sentence that the user should read."""


#: The observer that ignores all events.
SILENT = Observer()
