"""The first moments of the command, before anything else is loaded: Ctrl-C ends it in one line from here on.

Loaded first by the package itself, since Python runs `__init__` before `__main__`. A program that imports Twofold
keeps its own handling of signals: only the command `twofold` and `python -m twofold` are meant.
"""

import os
import signal
import sys

EXIT_INTERRUPTED = 130


def leave(_signal: int, _frame: object) -> None:
    """End at once: nothing has begun that would have to be put away."""
    try:
        os.write(2, b"twofold: interrupted; nothing was written\n")
    finally:
        os._exit(EXIT_INTERRUPTED)


def is_command() -> bool:
    """Return whether this process is the command, and not a program that imports the package."""
    words = sys.orig_argv
    as_module = any(words[place : place + 2] == ["-m", "twofold"] for place in range(1, len(words)))
    return as_module or os.path.basename(sys.argv[0] if sys.argv else "") in {"twofold", "twofold.exe"}  # noqa: PTH119  pathlib takes as long as all else here


def catch_interrupts() -> None:
    """End in one line at Ctrl-C, unless whoever started this process has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def raise_interrupts() -> None:
    """Make Ctrl-C a KeyboardInterrupt again: from here on there is something to put away."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore_interrupts() -> None:
    """Let Ctrl-C come too late: all is done and written, and what follows is the interpreter's own end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if is_command():
    catch_interrupts()
