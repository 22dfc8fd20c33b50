"""The queue of a watched folder: each state of each file is taken once, whatever the order of events."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from offnominal.station.folders.file_queue import LONGEST_RETRY, FileQueue
from offnominal.station.folders.watched_files import WatchedFile

NAMES = st.sampled_from(["a.png", "b.png", "c.png"])
SETTLE = 1.0


class Folder(RuleBasedStateMachine):
    """A folder whose files come, change and go; a watcher that takes what is whole, with answers that come later."""

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.now, self.version = FileQueue(SETTLE), 0.0, 0
        self.files: dict[str, WatchedFile] = {}
        self.changed_at: dict[WatchedFile, float] = {}
        self.finished: list[WatchedFile] = []

    @rule(name=NAMES)
    def write(self, name: str) -> None:
        self.version += 1
        self.files[name] = file = WatchedFile(name, 10, self.version)
        self.changed_at[file] = self.now

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    @rule(name=NAMES)
    def event(self, name: str) -> None:
        if (file := self.files.get(name)) is not None and self.queue.is_new(file):
            self.queue.note(file, self.now)

    @rule()
    def listing(self) -> None:
        self.queue.keep(list(self.files.values()))
        for name in list(self.files):
            self.event(name)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        file = self.queue.take(self.now, self.files.get)
        if file is not None:
            assert self.files[file.name] == file
            assert self.now - self.changed_at[file] >= SETTLE
            assert file not in self.finished

    @rule(data=st.data(), answer=st.sampled_from(["done", "later", "failed"]))
    def answer(self, data: st.DataObject, answer: str) -> None:
        if not self.queue.flying:
            return
        file = data.draw(st.sampled_from(sorted(self.queue.flying, key=lambda file: file.mtime_ns)))
        if answer == "done":
            self.queue.finish(file)
            self.finished.append(file)
        elif answer == "later":
            self.queue.put_back(file)
        else:
            self.queue.fail(file, "no access", self.now)

    @invariant()
    def nothing_is_taken_twice(self) -> None:
        assert len(self.finished) == len(set(self.finished))

    def teardown(self) -> None:
        """In the end all files that are there have been taken, and nothing is kept of the others."""
        self.listing()
        for _ in range(50):
            self.now += LONGEST_RETRY
            while (file := self.queue.take(self.now, self.files.get)) is not None:
                self.queue.finish(file)
                self.finished.append(file)
            for file in list(self.queue.flying):
                self.queue.finish(file)
                self.finished.append(file)
        self.listing()
        assert set(self.files.values()) <= set(self.finished)
        assert not any(self.queue.is_new(file) for file in self.files.values())
        assert len(self.finished) == len(set(self.finished))
        assert set(self.queue.troubled) <= set(self.files)


TestFolder = Folder.TestCase


@given(st.lists(st.integers(0, 1000), unique=True, min_size=1))
def test_files_that_changed_first_come_first(times: list[int]) -> None:
    queue = FileQueue(SETTLE)
    files = {f"{time}.png": WatchedFile(f"{time}.png", 1, time) for time in times}
    for file in files.values():
        queue.note(file, now=0.0)
    assert [queue.take(SETTLE, files.get) for _ in times] == [files[f"{time}.png"] for time in sorted(times)]


def test_an_empty_file_waits_longer() -> None:
    queue, file = FileQueue(SETTLE), WatchedFile("a.png", 0, 1)
    queue.note(file, now=0.0)
    assert queue.take(2 * SETTLE, lambda name: file) is None
    assert queue.take(10 * SETTLE, lambda name: file) == file


def test_attempts_with_a_file_that_fails_become_rare() -> None:
    queue, file, now, attempts = FileQueue(0.0), WatchedFile("a.png", 1, 1), 0.0, list[float]()
    queue.note(file, now)
    while len(attempts) < 10:
        next_at = queue.next_at()
        assert next_at is not None
        now = next_at
        assert queue.take(now, lambda name: file) == file
        assert queue.fail(file, "no access", now) == (not attempts)
        attempts.append(now)
    waits = [later - before for before, later in pairwise(attempts)]
    assert waits[:3] == [1.0, 2.0, 4.0]
    assert waits[-1] == LONGEST_RETRY
