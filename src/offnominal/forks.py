"""Forked processes. Native threads do not survive a fork, and who waits for them waits for ever.

OpenMP (in torch and FAISS), OpenCV and OpenVINO keep threads of their own once they were used. In a child that was forked
after that, all of them work on the thread that calls them alone, which needs no others. Results are the same; to be as fast as
the parent a child has to be started otherwise (`spawn`, `forkserver`).
"""

from __future__ import annotations

import os

_used = False
_generation = 0


def native_threads() -> None:
    """Call before native threads may start in this process: its children are told."""
    global _used
    _used = True


def generation() -> int:
    """Changes in every child that was forked after native threads had started; what belongs to an older one is of no use."""
    return _generation


def forked() -> bool:
    """Whether this process works on one thread because of a fork."""
    return _generation > 0


def _in_child() -> None:
    global _generation
    if not _used:
        return
    _generation += 1
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # not 1: that waits for the parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
