"""Drafts: what a file is before it is whole. Made private, locked while its writer lives, renamed in one step.

A draft stands beside its target, so that a rename is atomic, under a name that nobody can foretell:

    .twofold-0123456789abcdef.partial

Its writer holds a lock on it (flock), which ends with the process, whatever ends that. So a draft of the user's own
whose lock is free has no writer any more, and the next draft in that folder sweeps it away. Where a file system has
no locks nothing is swept. A power failure is not modelled: nothing waits for the disk.
"""

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

PRIVATE: Final = 0o600
_NAME: Final = re.compile(r"\.twofold-[0-9a-f]{16}\.partial")
_RIGHTS: Final = 0o777  # set-user-ID and its kin are not kept
_GROUP: Final = 0o070
_OPEN_FILES: Final = Path("/proc/self/fd")
_STATUS: Final = Path("/proc/self/status")


class Draft:
    """A new file beside `target`; `place` gives it that name, `close` removes it where that was not done.

    Parameters
    ----------
    buffering : as `open` has it

    Attributes
    ----------
    file : the draft, open for writing; its `name` is the path of the draft
    """

    def __init__(self, target: Path, buffering: int = -1) -> None:
        self._target = target
        sweep(target.parent)
        self.file = _new_file(target.parent, buffering)
        self.path = Path(self.file.name)
        self._is_placed = False

    def place(self, mode: int | None = None) -> None:
        """Put the draft in the place of its target; a link there is replaced, and what it led to is left alone.

        mode : of the file; None: that of the file that it replaces, or what the umask leaves of a new one
        """
        self.file.flush()
        os.fchmod(self.file.fileno(), _kept_mode(self.file.fileno(), self._target) if mode is None else mode)
        self.path.replace(self._target)
        self._is_placed = True

    def close(self) -> None:
        """Close the file, and remove it where it was not placed."""
        if not self._is_placed:
            with suppress(OSError):
                self.path.unlink()
        with suppress(OSError):  # what a full disk refused before, it refuses once more
            self.file.close()


def is_draft(path: Path) -> bool:
    """Return whether a file has the name of a draft."""
    return _NAME.fullmatch(path.name) is not None


def abandon() -> None:
    """Remove the drafts that this process has open, before it ends while a thread of it still writes."""
    for descriptor in [*_OPEN_FILES.iterdir()]:
        with suppress(OSError):  # closed in between, or renamed
            path = descriptor.readlink()
            if is_draft(path):
                path.unlink()


def sweep(folder: Path) -> None:
    """Remove the drafts in a folder whose writers are dead. What cannot be looked at stays."""
    with suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name)]:
            with suppress(OSError):
                _sweep_one(path)


def _sweep_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # BlockingIOError while its writer lives
            if os.path.samestat(os.lstat(path), status):  # renamed in between it would be somebody's file
                path.unlink()
    finally:
        os.close(descriptor)


def _new_file(folder: Path, buffering: int) -> BinaryIO:
    """Return a new private file that nobody else can have made, locked."""
    for path in _names(folder):
        file = open(path, "xb", buffering=buffering, opener=_open_private)  # noqa: SIM115  Path has no opener
        if _is_held(file):
            return file
        file.close()  # somebody swept in the instant before it was locked
    raise AssertionError("names do not end")


def _names(folder: Path) -> Iterator[Path]:
    while True:
        yield folder / f".twofold-{os.urandom(8).hex()}.partial"


def _open_private(path: str, flags: int) -> int:
    """Open as `open` asks, mode "x" with O_EXCL, and through no link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)


def _is_held(file: BinaryIO) -> bool:
    """Lock a new draft; return whether it is still there."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here, so nobody sweeps
        return True
    return os.fstat(file.fileno()).st_nlink > 0


def _kept_mode(descriptor: int, target: Path) -> int:
    """Return the rights of the file that a draft replaces, and give the draft its group; of a new one, the usual."""
    try:
        old = target.lstat()
    except FileNotFoundError:
        return 0o666 & ~_umask()
    if not stat.S_ISREG(old.st_mode):
        return 0o666 & ~_umask()
    mode, new = stat.S_IMODE(old.st_mode) & _RIGHTS, os.fstat(descriptor)
    if old.st_uid != new.st_uid:
        with suppress(OSError):  # root alone can
            os.fchown(descriptor, old.st_uid, -1)
    if old.st_gid != new.st_gid:
        try:
            os.fchown(descriptor, -1, old.st_gid)
        except OSError:  # its rights were another group's
            mode &= ~_GROUP
    return mode


def _umask() -> int:
    """Return the process's umask without changing it, which other threads would notice; 077 where it is not told."""
    with suppress(OSError):
        found = re.search(rb"^Umask:\s*([0-7]+)$", _STATUS.read_bytes(), re.MULTILINE)
        if found:
            return int(found[1], 8)
    return 0o077
