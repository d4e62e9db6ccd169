"""The one way to compile a kernel: `@kernel`, cached on disk under a hash of every kernel source.

Numba checks only the file of the function it loads from its cache: a caller keeps the machine code of a callee
that has changed in another file, and the value of a constant that has. So the cache folder is named by a hash over all
sources of this package and of `formats`, whose numbers are compiled in; any edit opens a new folder.

How a function is compiled is said by its decorator and by nothing else:

    kernel      called from Python; kept on disk
    allocating  the same, of one that makes an array
    inner       a helper of kernels, which Python cannot call
    folded      the same, folded into its callers by LLVM
    part        a step of one kernel, written into it before types are known
"""

import functools
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
import platformdirs
from numba.core import config as numba_config
from numba.core import event

from twofold.kernels._cache import CheckedCache, make_private, why_unsafe

HERE: Final = Path(__file__).parent
# Told: each function that is compiled (INFO), and once that machine code cannot be kept (WARNING).
LOG: Final = logging.getLogger("twofold.kernels")


def source_hash(*folders: Path) -> str:
    """Return a hash over the names and bytes of all Python sources in some folders and below."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Return the folder that holds the machine code of exactly these sources."""
    return Path(platformdirs.user_cache_dir("twofold")) / "kernels" / source_hash(HERE, HERE.parent / "formats")


F = TypeVar("F", bound=Callable[..., Any])


@functools.cache
def tell_not_kept(folder: Path, reason: str) -> None:
    """Say, once for each reason, that machine code cannot be kept, and the cure."""
    LOG.warning(
        "compiled kernels cannot be kept in %s (%s), so they are compiled again each time: "
        "make room for it, or name another folder by XDG_CACHE_HOME",
        folder,
        reason,
    )


def is_usable(folder: Path) -> bool:
    """Return whether machine code can be kept in a folder, which is made if it can be, and run from there.

    Where it cannot, or where others could put theirs, that is told, once a process, with the cure.
    """
    try:
        make_private(folder)
    except OSError as error:
        tell_not_kept(folder, error.strerror or str(error))
        return False
    problem = why_unsafe(folder)
    if problem:
        LOG.warning(
            "compiled kernels are neither kept nor taken from disk, where they could be another user's: %s", problem
        )
    elif not os.access(folder, os.W_OK):
        tell_not_kept(folder, "it cannot be written")
        return False
    return not problem


CACHE_FOLDER: Final = cache_folder()
# Without it nothing is kept: Numba would fall back to the folder of the sources, where a changed callee goes unseen.
CACHE_IS_USABLE: Final = is_usable(CACHE_FOLDER)
# Nothing is compiled that nobody needs. Kernels raise nothing and count no references: with counting each call of a
# helper costs an atomic operation or two for each array, in the MMU model 1400 instead of 660 ns a walk, and a quarter
# more time to compile. C calls none of them, and Python no helper: wrappers took a sixth of the time.
BARE: Final = {"_nrt": False, "error_model": "numpy"}
NOT_FROM_C: Final = {"no_cfunc_wrapper": True}
NOT_FROM_PYTHON: Final = {"no_cpython_wrapper": True}


class KeptCode(CheckedCache):
    """The machine code of a kernel on disk; where a disk fails, the kernel is compiled, and still answers."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was kept for some types, or None."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except OSError as error:
            tell_not_kept(CACHE_FOLDER, error.strerror or str(error))
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep machine code for some types, if the disk lets it."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except OSError as error:
            tell_not_kept(CACHE_FOLDER, error.strerror or str(error))


class CompileListener(event.Listener):
    """Tells each function that Numba compiles for us, and "" when all that it called are compiled too."""

    def __init__(self) -> None:
        self._depth = 0

    def on_start(self, event: Any) -> None:
        """Tell the name of what is compiled now."""
        self._depth += 1
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith("twofold."):
            LOG.info("%s", function.__qualname__)

    def on_end(self, event: Any) -> None:  # noqa: ARG002  what Numba calls it with
        """Tell the end of the outermost."""
        self._depth -= 1
        if not self._depth:
            LOG.info("")


event.register("numba:compile", CompileListener())  # type: ignore[no-untyped-call]


def kernel(function: F) -> F:
    """Compile a kernel on first call, without the GIL, and keep its machine code; it neither allocates nor raises."""
    return _with_options(allocating(function), BARE)


def allocating(function: F) -> F:
    """Compile a kernel that makes an array: with reference counts, and exceptions for when there is no memory."""
    config: Any = numba_config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(CACHE_FOLDER)  # read once, when caching is enabled; other users keep theirs
    try:
        compiled: Any = numba.njit(nogil=True, boundscheck=False)(function)
        if CACHE_IS_USABLE:
            compiled._cache = KeptCode(function)  # noqa: SLF001  for that of `cache=True`
    finally:
        config.CACHE_DIR = before
    return _with_options(cast("F", compiled), NOT_FROM_C)


def inner(function: F) -> F:
    """Compile a helper of kernels, never cached on its own. Called from Python it would crash."""
    compiled: F = numba.njit(nogil=True, boundscheck=False)(function)
    return _with_options(compiled, BARE | NOT_FROM_C | NOT_FROM_PYTHON)


def folded(function: F) -> F:
    """Compile a helper as `inner` does, and fold it into each of its callers."""
    return _with_options(inner(function), {"forceinline": True})


def part(function: F) -> F:
    """Write a step of a kernel into its callers: not compiled for itself first, which takes as long as all in it."""
    compiled: F = numba.njit(nogil=True, boundscheck=False, inline="always")(function)
    return compiled


def _with_options(compiled: F, options: dict[str, Any]) -> F:
    """Return a kernel that has not been compiled yet with more options than `njit` takes."""
    dispatcher: Any = compiled
    dispatcher.targetoptions.update(options)
    return cast("F", dispatcher)
