"""Files in folders and buckets: one interface for all places that pyarrow's file systems reach."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from offnominal.datasets import Pages
from offnominal.errors import ImageError, InputError, OutputError
from offnominal.images import DEFAULT_MEMORY, StoredImage
from offnominal.storage import write_atomically

#: Schemes of addresses that are not paths of this machine.
SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
#: Bytes that are copied at a time.
BLOCK = 1 << 20


def is_remote(address: str | Path) -> bool:
    """Whether an address is that of a bucket.

    Examples
    --------
    >>> is_remote("s3://bucket/images"), is_remote("images")
    (True, False)
    """
    return isinstance(address, str) and urlsplit(address).scheme in SCHEMES


def require_one_page(address: str, pages: Pages) -> None:
    """Raise `InputError` for `--pages all` and a bucket, whose files are not opened when they are listed."""
    if pages == "all" and is_remote(address):
        raise InputError(
            f"{Place(address).shown}: --pages all needs files on shared storage; a bucket has one image in each file"
        )


@dataclass(frozen=True)
class Place:
    """A folder on this machine, or a prefix in a bucket.

    Parameters
    ----------
    address
        A path, or an address such as `s3://bucket/prefix`. Options of the store follow a question mark, as pyarrow reads them:
        `s3://bucket/prefix?region=eu-central-1&endpoint_override=...`.

    Raises
    ------
    InputError
        The store is not known, or the address holds a key, which would be written to results.

    Examples
    --------
    >>> (Place("s3://bucket/run?region=eu-central-1") / "parts").address
    's3://bucket/run/parts?region=eu-central-1'
    """

    address: str

    def __post_init__(self) -> None:
        scheme, separator, _ = self.address.partition("://")
        if separator and scheme not in SCHEMES:
            raise InputError(f"{self.address}: unknown store {scheme}; known: {', '.join(SCHEMES)}")
        if is_remote(self.address) and "@" in urlsplit(self.address).netloc.partition("?")[0]:
            host = self.address.rpartition("@")[2]
            raise InputError(
                f"{scheme}://...@{host}: holds a key; give keys in the environment, as for other tools of the store"
            )

    def __truediv__(self, name: str) -> Place:
        if self.local is not None:
            return Place(str(self.local / name))
        base, mark, options = self.address.partition("?")
        return Place(f"{base.rstrip('/')}/{name}{mark}{options}")

    @property
    def shown(self) -> str:
        """The address without the options of the store."""
        return self.address.partition("?")[0] if is_remote(self.address) else self.address

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.shown.rstrip("/").rpartition("/")[2]

    @property
    def local(self) -> Path | None:
        """The path; None for a bucket."""
        return None if is_remote(self.address) else Path(self.address)

    def exists(self) -> bool:
        """Whether there is a file."""
        import pyarrow.fs

        system, path = self._opened()
        with self._reading():
            return bool(system.get_file_info(path).type == pyarrow.fs.FileType.File)

    def names(self) -> list[str]:
        """Names of the files directly in this folder; none if it does not exist."""
        return sorted(info.base_name for info in self._listed() if info.is_file)

    def walk(self) -> Iterator[Place]:
        """All files in this folder and below, folder by folder, in the order of their names.

        Only the files of one folder are held at a time.
        """
        infos = sorted(self._listed(), key=lambda info: str(info.base_name))
        yield from (self / info.base_name for info in infos if info.is_file)
        for info in infos:
            if not info.is_file:
                yield from (self / info.base_name).walk()

    def read(self) -> bytes:
        """The content of the file. Raises `InputError`."""
        with self.open() as file:
            return file.read()

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, open for reading. Raises `InputError`."""
        system, path = self._opened()
        with self._reading(), system.open_input_file(path) as file:
            yield cast(BinaryIO, file)

    def copy_to(self, target: BinaryIO) -> None:
        """Copy an image or a mask. Raises `InputError`, and `ImageError` for a file too large for an image."""
        with self.open() as file:
            while block := file.read(BLOCK):
                if target.tell() > DEFAULT_MEMORY:
                    raise ImageError(f"{self.shown}: is larger than {DEFAULT_MEMORY / 1e9:g} GB, too large for an image")
                target.write(block)
        target.flush()

    def write(self, content: bytes) -> None:
        """Write the file, completely or not at all. Raises `OutputError`."""
        if self.local is not None:
            write_atomically(self.local, content)
            return
        system, path = self._opened()
        try:
            with system.open_output_stream(path) as file:
                file.write(content)
        except OSError as error:
            raise OutputError(
                f"{self.shown}: cannot be written ({reason(error)}); check the bucket and your access to it"
            ) from None

    @contextmanager
    def output(self) -> Iterator[BinaryIO]:
        """A file that is written in parts; it exists once the context ends without an error. Raises `OutputError`."""
        if self.local is not None:
            from offnominal.storage import scratch_folder

            try:
                with scratch_folder(self.local.parent, self.local.name) as folder:
                    with (folder / "file").open("wb") as file:
                        yield file
                        file.flush()
                        os.fsync(file.fileno())
                    os.replace(folder / "file", self.local)
            except OSError as error:
                raise OutputError(
                    f"{self.shown}: cannot be written ({error.strerror or error}); choose another place"
                ) from None
            return
        with tempfile.TemporaryFile() as whole:  # an upload that breaks off would leave a part of the file
            yield cast(BinaryIO, whole)
            whole.seek(0)
            system, path = self._opened()
            try:
                with system.open_output_stream(path) as stream:
                    while block := whole.read(BLOCK):
                        stream.write(block)
            except OSError as error:
                raise OutputError(
                    f"{self.shown}: cannot be written ({reason(error)}); check the bucket and your access to it"
                ) from None

    def _listed(self) -> list[Any]:
        import pyarrow.fs

        system, path = self._opened()
        with self._reading():
            infos = system.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
        return [info for info in infos if info.base_name]

    def _opened(self) -> tuple[Any, str]:
        import pyarrow.fs

        if self.local is not None:
            return pyarrow.fs.LocalFileSystem(), str(self.local.absolute())
        try:
            system, path = pyarrow.fs.FileSystem.from_uri(self.address)
        except (OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{self.shown}: is no address of a store ({reason(error)})") from None
        return system, path

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.shown}: cannot be read ({reason(error)}); check the address and your access to it"
            ) from None


class BucketImage(StoredImage):
    """An image in a bucket.

    Examples
    --------
    >>> BucketImage("s3://parts/good/001.png?region=eu-central-1").name
    's3://parts/good/001.png'
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.name = Place(address).shown

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """A copy in the temporary folder of this machine. Raises `ImageError`, also for a file too large for an image."""
        place = Place(self.address)
        suffix = Path(place.name).suffix
        with tempfile.NamedTemporaryFile(prefix="offnominal-", suffix=suffix) as target:
            try:
                place.copy_to(cast(BinaryIO, target))
            except InputError as error:
                raise ImageError(str(error)) from None
            yield Path(target.name)


def reason(error: Exception) -> str:
    """The first line of an error, without the addresses and numbers of requests that stores append."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text.partition(" Detail:")[0][:200]
