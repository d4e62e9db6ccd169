"""Whether machine code that was kept may be run, and entries that know when they are damaged.

Numba keeps machine code in pickles: whoever can write them runs what he likes as whoever loads them. So a folder is
trusted as code is: it and all that leads there belong to the user (or to root), and nobody else may write there. Other
people's entries cannot come in otherwise, so a checksum beside each need only tell accidents: a disk that was full, a
file cut short.
"""

import os
import pickle
import stat
import zlib
from pathlib import Path
from typing import Any, Final

from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.serialize import dumps

PRIVATE: Final = 0o700
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_MOST_ON_THE_WAY: Final = 1000  # folders and links; a ring of links has no end
_CRC_BYTES: Final = 4


def make_private(folder: Path) -> None:
    """Make a folder and those above it that are missing, for the user alone."""
    for each in (*reversed(folder.parents), folder):
        if not each.is_dir():
            each.mkdir(PRIVATE, exist_ok=True)


def why_unsafe(folder: Path) -> str:
    """Return why machine code in a folder may not be run, with the cure; "" where it may be."""
    try:
        for path in _leading_to(folder):
            problem = _problem(path, path.lstat())
            if problem:
                return problem
        # What is in it may be from a time when others could write there; Numba makes files as the umask says.
        is_shut = not folder.stat().st_mode & _OTHERS
        for root, folders, files in os.walk(folder):
            for path in [Path(root, name) for name in (*folders, *files)]:
                status = path.lstat()
                if status.st_uid != os.geteuid() or stat.S_ISLNK(status.st_mode):
                    return f"{path} is no file of yours: remove {folder}"
                if status.st_mode & _OTHERS_WRITE and not is_shut:
                    return f"others may write to {path}: remove {folder}"
    except OSError as error:
        return f"{error.filename} cannot be looked at: {error.strerror}"
    return ""


def _problem(path: Path, status: os.stat_result) -> str:
    """Return what is wrong with one folder or link on the way."""
    if status.st_uid not in {0, os.geteuid()}:
        return f"{path} belongs to user {status.st_uid}: remove it, or name another folder by XDG_CACHE_HOME"
    # In a folder with the sticky bit others may make files, and neither remove nor rename ours.
    is_open = status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX
    if is_open and not stat.S_ISLNK(status.st_mode):
        return f"others may write to {path}: chmod go-w {path}, and remove what is in it"
    return ""


def _leading_to(folder: Path) -> list[Path]:
    """Return every folder and link by which a folder is reached, itself too."""
    found: list[Path] = []
    todo = [Path(os.path.abspath(folder))]  # noqa: PTH100  links are looked at one by one
    while todo and len(found) < _MOST_ON_THE_WAY:
        path = todo.pop()
        for each in (*reversed(path.parents), path):
            if each in found:
                continue
            found.append(each)
            if each.is_symlink():
                target = each.parent / each.readlink()
                todo.append(target / path.relative_to(each))
    return found


class CheckedEntries(IndexDataCacheFile):
    """Index and data of one kernel on disk, each behind a checksum; what does not match is removed."""

    def _load_index(self) -> dict[Any, str]:
        try:
            version, stamp, overloads = self._load(self._index_path)
        except FileNotFoundError:
            return {}
        is_fresh = (version, stamp) == (self._version, self._source_stamp)
        return dict(overloads) if is_fresh else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._save(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        return self._load(self._data_path(name))  # type: ignore[no-untyped-call]

    def _save_data(self, name: str, data: Any) -> None:
        self._save(self._data_path(name), data)  # type: ignore[no-untyped-call]

    def _load(self, path: str) -> Any:
        """Return what a file holds; FileNotFoundError, which Numba expects, when it is damaged."""
        content = Path(path).read_bytes()
        crc, data = content[:_CRC_BYTES], memoryview(content)[_CRC_BYTES:]
        if len(content) <= _CRC_BYTES or zlib.crc32(data) != int.from_bytes(crc, "little"):
            Path(path).unlink(missing_ok=True)
            raise FileNotFoundError(path)
        return pickle.loads(data)  # noqa: S301  trusted as code is, see above

    def _save(self, path: str, value: Any) -> None:
        data = dumps(value)  # type: ignore[no-untyped-call]
        with self._open_for_write(path) as file:
            file.write(zlib.crc32(data).to_bytes(_CRC_BYTES, "little") + data)


class CheckedCache(FunctionCache):
    """The machine code of one kernel on disk, in checked entries."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._cache_file = CheckedEntries(  # type: ignore[no-untyped-call]
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )
