"""The one way to compile a kernel: `@kernel`, cached on disk under a hash of every kernel source.

Numba checks only the file of the function it loads from its cache: a caller keeps the machine code of a callee
that has changed in another file, and the value of a constant that has. So the cache folder is named by a hash over all
sources of this package and of `formats`, whose numbers are compiled in; any edit opens a new folder.

How a function is compiled is said by its decorator and by nothing else:

    kernel        called from Python; kept on disk
    bare_kernel   the same, without reference counts and exceptions
    inline        a helper of kernels
    bare          a helper without reference counts and exceptions
    inner         the same, which Python cannot call
    folded        the same as bare, folded into its callers by LLVM
    part          a step of one kernel, written into it before types are known
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
import platformdirs
from numba.core import config as numba_config

from twofold.kernels._cache import CheckedCache, make_private, why_unsafe

LOG: Final = logging.getLogger("twofold.kernels")
HERE: Final = Path(__file__).parent


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


def is_usable(folder: Path) -> bool:
    """Return whether machine code can be kept in a folder, which is made if it can be, and run from there.

    Where others could put theirs, that is told, once a process, with the cure.
    """
    try:
        make_private(folder)
    except OSError:
        return False
    problem = why_unsafe(folder)
    if problem:
        LOG.warning(
            "compiled kernels are neither kept nor taken from disk, where they could be another user's: %s", problem
        )
    return not problem and os.access(folder, os.W_OK)


CACHE_FOLDER: Final = cache_folder()
# Without it nothing is kept: Numba would fall back to the folder of the sources, where a changed callee goes unseen.
CACHE_IS_USABLE: Final = is_usable(CACHE_FOLDER)
BARE: Final = {"_nrt": False, "error_model": "numpy"}  # no reference counts, no exceptions
INNER: Final = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # not to be called from Python, nor from C


def is_cold() -> bool:
    """Return whether no kernel of these sources has been compiled and kept yet."""
    return not CACHE_IS_USABLE or not any(CACHE_FOLDER.glob("**/*.nbi"))


def kernel(function: F) -> F:
    """Compile a kernel on first call, without the GIL, and keep its machine code in `CACHE_FOLDER`."""
    config: Any = numba_config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(CACHE_FOLDER)  # read once, when caching is enabled; other users keep theirs
    try:
        compiled: F = numba.njit(nogil=True, boundscheck=False)(function)
        if CACHE_IS_USABLE:
            dispatcher: Any = compiled
            dispatcher._cache = CheckedCache(function)  # noqa: SLF001  as `cache=True` does with Numba's own
    finally:
        config.CACHE_DIR = before
    return compiled


def inline(function: F) -> F:
    """Compile a helper of kernels: never called from Python, so never cached on its own."""
    compiled: F = numba.njit(nogil=True, boundscheck=False)(function)
    return compiled


def part(function: F) -> F:
    """Write a step of a kernel into its callers: not compiled for itself first, which takes as long as all in it."""
    compiled: F = numba.njit(nogil=True, boundscheck=False, inline="always")(function)
    return compiled


def bare(function: F) -> F:
    """Compile a helper that neither allocates nor raises nor slices: without reference counts and exceptions.

    With counting, each call of a helper costs an atomic operation or two for each array: measured in the MMU model,
    1400 instead of 660 ns a walk, and 50 instead of 2 ns a hit.
    """
    return _with_options(inline(function), BARE)


def inner(function: F) -> F:
    """Compile a helper as `bare` does, for kernels alone: without the wrappers by which Python and C would call it.

    Called from Python it would crash. A third of the time to compile the block simulator went into these wrappers.
    """
    return _with_options(inline(function), BARE | INNER)


def folded(function: F) -> F:
    """Compile a helper as `bare` does, and fold it into each of its callers."""
    return _with_options(inline(function), BARE | {"forceinline": True})


def bare_kernel(function: F) -> F:
    """Compile a kernel as `kernel` does, and without reference counts and exceptions, as `bare` does a helper."""
    return _with_options(kernel(function), BARE)


def _with_options(compiled: F, options: dict[str, Any]) -> F:
    """Return a kernel that has not been compiled yet with more options than `njit` takes."""
    dispatcher: Any = compiled
    dispatcher.targetoptions.update(options)
    return cast("F", dispatcher)
