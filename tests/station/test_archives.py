"""Archives of strangers and damaged ones are refused, and leave nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offnominal.errors import InputError, OffnominalError
from offnominal.station.station import Station
from offnominal.station.upkeep.archive import FILES, MANIFEST
from offnominal.station.upkeep.restore import restore
from station.commands import backed_up, problems
from station.conftest import StationFactory
from station.parts import inspected

pytestmark = pytest.mark.slow

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory, station_folder: StationFactory) -> Path:
    """A small backup."""
    home = station_folder(config="replay = 7\n")
    with Station(home.root) as station:
        inspected(station, 150, bad=True, serial="A1")
    archive = tmp_path_factory.mktemp("archive") / "backup.tar"
    backed_up(home.root, archive)
    return archive


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """Where archives are restored; nothing may appear beside it, and nothing may be left in it."""
    inside = tmp_path / "place"
    inside.mkdir()
    yield inside / "station"
    assert list(tmp_path.iterdir()) == [inside]
    assert not Path("/tmp/offnominal-evil").exists()
    left = list(inside.iterdir())
    assert left == [] or (left == [inside / "station"] and (inside / "station" / "models").is_dir())


def members_of(archive: Path) -> Members:
    with tarfile.open(archive) as tar:
        found: Members = {}
        for info in tar:
            opened = tar.extractfile(info)
            assert opened is not None
            found[info.name] = opened.read()
        return found


def sealed(members: Members, /, **manifest: object) -> Members:
    """Members with the listing and the manifest that belong to them."""
    inner = {name: content for name, content in members.items() if name not in (FILES, MANIFEST)}
    lines = [
        json.dumps({"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
        for name, content in inner.items()
    ]
    listing = "".join(f"{line}\n" for line in lines).encode()
    shown = json.loads(members[MANIFEST]) | {"members": len(inner), "bytes": sum(map(len, inner.values()))}
    shown |= {"files": {"size": len(listing), "sha256": hashlib.sha256(listing).hexdigest()}} | manifest
    return inner | {FILES: listing, MANIFEST: json.dumps(shown).encode()}


def packed(path: Path, members: Members, change: Callable[[tarfile.TarInfo], None] = lambda info: None) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def refused(archive: Path, target: Path, match: str | None = None) -> None:
    with pytest.raises(InputError, match=match):
        restore(archive, target)
    assert not target.exists()


def test_a_rebuilt_archive_is_accepted(genuine: Path, target: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the hostile archives below start from is good."""
    archive = packed(tmp_path_factory.mktemp("made") / "a.tar", sealed(members_of(genuine)))
    restore(archive, target)
    assert problems(target) == []


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/tmp/offnominal-evil", "media/../../evil.png", "models/../../../evil.safetensors", "station.sqlite", "evil",
        "models/" + "ab" * 32 + ".safetensors/evil", "media/2026-11-30/" + "0" * 32 + "/../evil.png", "config.toml/",
        "./config.toml", "media/2026-11-30/" + "0" * 32 + "/.evil", "tables/evil-000001.jsonl",
        "tables/alembic_version-000001.jsonl", "media/2026-11-30/" + "0" * 32 + "/image.png\n",
    ],
)  # fmt: skip
def test_no_other_member_is_accepted(genuine: Path, target: Path, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    members = {name: b"{}\n"} | members_of(genuine)
    refused(packed(tmp_path_factory.mktemp("made") / "a.tar", sealed(members)), target)


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE,
        tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE,
    ],
)  # fmt: skip
def test_only_regular_files_are_accepted(
    genuine: Path, target: Path, kind: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def change(info: tarfile.TarInfo) -> None:
        if info.name.startswith("media/"):
            info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    refused(packed(tmp_path_factory.mktemp("made") / "a.tar", sealed(members_of(genuine)), change), target, "none of a station")


def _row(members: Members, table: str, **values: object) -> Members:
    name = f"tables/{table}-000001.jsonl"
    first, *others = members[name].splitlines(keepends=True)
    changed = json.dumps(json.loads(first) | values).encode() + b"\n"
    return sealed(members | {name: changed + b"".join(others)})


def _twice(members: Members) -> Members:
    name = "tables/line-000001.jsonl"
    return sealed(members | {name: 2 * members[name]})


def _without(members: Members, start: str) -> Members:
    return sealed({name: content for name, content in members.items() if not name.startswith(start)})


def _renamed_model(members: Members) -> Members:
    return sealed(
        {(f"models/{'0' * 64}.safetensors" if name.startswith("models/") else name): one for name, one in members.items()}
    )


def _raw(members: Members, table: str, content: bytes) -> Members:
    return sealed(members | {f"tables/{table}-000001.jsonl": content})


HOSTILE: dict[str, tuple[Callable[[Members], Members], str]] = {
    "identifier": (lambda m: _row(m, "inspection", id="../../../../../../tmp/evil"), "is not a valid name"),
    "image file": (lambda m: _row(m, "inspection", image_file="../../../../etc/passwd"), "is not a valid name"),
    "image file with a line": (lambda m: _row(m, "inspection", image_file="image.png\n"), "is not a valid name"),
    "far time": (lambda m: _row(m, "inspection", judged_at=1 << 62), "out of range"),
    "digest": (lambda m: _row(m, "model_version", digest="../evil"), "is not a valid name"),
    "line": (lambda m: _row(m, "line", name="../evil"), "is not a valid name"),
    "text as number": (lambda m: _row(m, "inspection", score="high"), "is not of type"),
    "number as text": (lambda m: _row(m, "inspection", serial=5), "is not of type"),
    "truth as number": (lambda m: _row(m, "inspection", line_id=True), "is not of type"),
    "huge number": (lambda m: _row(m, "inspection", media_bytes=1 << 70), "is not of type"),
    "long text": (lambda m: _row(m, "inspection", serial="x" * 300), "is not of type"),
    "no character": (lambda m: _row(m, "inspection", serial="\ud800"), "cannot be stored"),
    "missing value": (lambda m: _row(m, "inspection", verdict=None), "must not be null"),
    "another column": (lambda m: _row(m, "inspection", evil=1), "other columns"),
    "row twice": (_twice, "twice"),
    "unknown line": (lambda m: _row(m, "inspection", line_id=99), "does not exist"),
    "no JSON": (lambda m: _raw(m, "line", b"{\n"), "no JSON"),
    "not a number": (lambda m: _raw(m, "line", b'{"id": NaN}\n'), "no JSON"),
    "deep": (lambda m: _raw(m, "line", b"[" * 100_000 + b"\n"), "no JSON"),
    "list": (lambda m: _raw(m, "line", b"[]\n"), "other columns"),
    "no line end": (lambda m: _raw(m, "line", b"{}"), "not ended"),
    "long line": (lambda m: _raw(m, "line", b" " * 17_000_000 + b"\n"), "too long"),
    "model of another name": (_renamed_model, "does not match its name"),
    "events missing": (lambda m: _without(m, "tables/event"), "does not end as its manifest says"),
    "event log of another": (lambda m: sealed(m, head="f" * 64), "does not end as its manifest says"),
    "database in settings": (lambda m: sealed(m | {"config.toml": b'database = "sqlite:////etc/x"\n'}), "names a database"),
    "settings that are none": (lambda m: sealed(m | {"config.toml": b"evil = 1\n"}), "unknown setting 'evil'"),
    "long settings": (lambda m: sealed(m | {"config.toml": b"#" * 2_000_000}), "too long"),
    "another listing": (lambda m: m | {FILES: m[FILES] + b"\n"}, "not the one that its manifest names"),
    "wrong totals": (lambda m: sealed(m, bytes=1), "other files than its manifest says"),
    "too few": (lambda m: sealed(m, members=3), "other files than its manifest says"),
    "newer": (lambda m: sealed(m, version=2), "newer version"),
    "newer tables": (lambda m: sealed(m, revision="9999"), "newer version"),
    "strange manifest": (lambda m: sealed(m, format="zip"), "manifest.json is damaged"),
    "no manifest": (lambda m: {name: one for name, one in m.items() if name != MANIFEST}, "no complete backup"),
    "nothing": (lambda m: {}, "no complete backup"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused(genuine: Path, target: Path, what: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    change, message = HOSTILE[what]
    refused(packed(tmp_path_factory.mktemp("made") / "a.tar", change(members_of(genuine))), target, message)


def test_a_member_that_comes_twice_or_was_changed_is_refused(
    genuine: Path, target: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    members = members_of(genuine)
    image = next(name for name in members if name.startswith("media/"))
    made = tmp_path_factory.mktemp("made")
    changed = dict(members)
    changed[image] = members[image][:-1] + bytes([members[image][-1] ^ 1])
    refused(packed(made / "changed.tar", changed), target, "does not match its SHA-256")
    lines = members[FILES].splitlines(keepends=True)
    line = next(line for line in lines if image in line.decode())
    listing = members[FILES].replace(line, line + line)
    shown = json.loads(members[MANIFEST])
    shown |= {"members": shown["members"] + 1, "bytes": shown["bytes"] + len(members[image])}
    shown["files"] = {"size": len(listing), "sha256": hashlib.sha256(listing).hexdigest()}
    with tarfile.open(made / "twice.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in (members | {FILES: listing, MANIFEST: json.dumps(shown).encode()}).items():
            for _ in range(1 + (name == image)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    refused(made / "twice.tar", target, "comes twice")


def test_a_damaged_archive_never_does_harm(genuine: Path, target: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cut off or changed anywhere: it is refused, or what was changed does not matter (padding)."""
    content, rng = genuine.read_bytes(), random.Random(0)
    archive = tmp_path_factory.mktemp("made") / "damaged.tar"
    for number in range(60):
        damaged = bytearray(content)
        if number % 3 == 0:
            del damaged[rng.randrange(len(damaged) - 1024) :]
        else:  # headers and tables are at the start, listing and manifest at the end
            at = rng.randrange(20_000) * (1 if number % 3 == 1 else -1)
            damaged[at] ^= 1 << rng.randrange(8)
        archive.write_bytes(damaged)
        try:
            restore(archive, target)
        except OffnominalError:
            assert not target.exists()
        else:
            assert problems(target) == []
            shutil.rmtree(target)


def test_other_files_are_no_archives(target: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("made")
    for name, content in {
        "empty": b"",
        "text": b"hello",
        "random": random.Random(1).randbytes(100_000),
        "zeros": bytes(10_240),
    }.items():
        (folder / name).write_bytes(content)
        refused(folder / name, target)
    refused(folder, target, "cannot be read")
