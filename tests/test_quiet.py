"""Warnings of other libraries stay suppressed while any thread needs it, and return afterwards."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from offnominal.quiet import without_warnings


def test_warnings_stay_suppressed_until_the_last_thread_leaves() -> None:
    before = list(warnings.filters)
    both, one_left = Barrier(2), Barrier(2)

    def short() -> None:
        with without_warnings():
            both.wait(10)
        one_left.wait(10)

    def long() -> None:
        with without_warnings():
            both.wait(10)
            one_left.wait(10)
            warnings.warn("from a library", stacklevel=1)  # an error in these tests, unless suppressed

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(short), pool.submit(long)]:
            future.result()
    assert list(warnings.filters) == before


def test_filters_are_restored_after_an_error() -> None:
    before = list(warnings.filters)
    with pytest.raises(ZeroDivisionError), without_warnings(), without_warnings():
        raise ZeroDivisionError
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning):
        warnings.warn("visible again", stacklevel=1)
