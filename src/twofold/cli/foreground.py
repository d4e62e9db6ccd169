"""Long work under Ctrl-C: it runs on a thread, so that the main thread can answer at once."""

import sys
import threading
from collections.abc import Callable
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from twofold.cli.documents import say
from twofold.drafts import abandon
from twofold.errors import MOST_SHOWN, shown

T = TypeVar("T")
_POLL_SECONDS = 0.1  # how soon a Ctrl-C is noticed


def interruptible(work: Callable[[], T]) -> T:
    """Return what `work` returns or raise what it raises; KeyboardInterrupt comes through at any moment."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  handed over to the main thread below
            errors.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
    except KeyboardInterrupt:
        abandon()
        raise
    if errors:
        raise errors[0]
    return results[0]


class Bar:
    """A progress bar on standard error; on anything but a terminal only its plain lines are shown."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("building", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def count(self, text: str) -> None:
        """Show how far work of unknown length is; only on a terminal."""
        self._progress.update(self._task, description=shown(text, MOST_SHOWN))

    def update(self, text: str, done: int, total: int) -> None:
        """Show how far the work is; a step without a total is a plain line."""
        if total:
            self._progress.update(self._task, description=shown(text, MOST_SHOWN), completed=done, total=total)
        elif not self._quiet:
            say(text)
