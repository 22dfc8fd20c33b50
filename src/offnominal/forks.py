"""Make forked processes safe. Native threads do not survive a fork, so waiting for them would hang.

OpenMP (in torch and FAISS), OpenCV and OpenVINO keep thread pools after their first use. In a child forked after that, they run
on the calling thread alone. Results are the same. Start a child by `spawn` or `forkserver` to use all threads.
"""

from __future__ import annotations

import os

_used = False
_generation = 0


def native_threads() -> None:
    """Record that native threads may start in this process; call it before they do."""
    global _used
    _used = True


def generation() -> int:
    """Number of forks since native threads started; objects that own threads are valid in their own generation only."""
    return _generation


def forked() -> bool:
    """Whether this process is limited to one thread because it was forked."""
    return _generation > 0


def _in_child() -> None:
    global _generation
    if not _used:
        return
    _generation += 1
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # 1 would wait for the parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
