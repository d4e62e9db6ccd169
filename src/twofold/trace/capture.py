"""Recording a real program: Valgrind's lackey runs it, and what lackey prints is stored as it comes."""

import io
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from twofold.errors import FormatError, HostError, wrong_type
from twofold.files import as_path, check_target
from twofold.trace.packed import ByteSource
from twofold.trace.stored import TraceWriter, write_trace
from twofold.trace.text_formats import LACKEY
from twofold.trace.text_reader import TextReader


@dataclass(frozen=True)
class Captured:
    """What came of a recording.

    Parameters
    ----------
    accesses : stored
    exit_code : of the program; negative: the signal that ended it
    stopped : whether Ctrl-C ended it; what it had done until then is stored
    """

    accesses: int
    exit_code: int
    stopped: bool


def capture_trace(
    command: Sequence[str], target: str | Path, progress: Callable[[int], None] | None = None
) -> Captured:
    """Run a program under Valgrind's lackey and store every fetch, load and store of it.

    The program keeps its own input and output. Processes that it starts are not recorded.

    Parameters
    ----------
    command : the program and its arguments
    target : the trace file to write, whole or not at all
    progress : called with the accesses stored so far

    Raises
    ------
    HostError : there is no Valgrind, or no such program
    FormatError : the target cannot be written, or lackey printed something that is no line of it
    """
    target = as_path(target)
    if isinstance(command, str | bytes) or not isinstance(command, Sequence):
        raise wrong_type("a command is a list: the program and its arguments", command)
    check_target(target)
    valgrind = _find("valgrind", "is not installed; recording a program takes its tool lackey")
    program = _find(command[0], "is no program that can be run") if command else ""
    if not program:
        raise HostError("capture", "no program was named")
    recording = _Recording([valgrind, "--tool=lackey", "--trace-mem=yes", "--child-silent-after-fork=yes"], command)
    with recording.stopped_by_ctrl_c():

        def fill(writer: TraceWriter) -> Iterable[str]:
            for _ in recording.store_into(writer):
                if progress is not None:
                    progress(writer.accesses)
            return recording.notes()

        try:
            accesses = write_trace(target, f"lackey of {Path(program).name}", fill)
        except BaseException:
            recording.kill()
            raise
    return Captured(accesses, recording.exit_code, recording.stopped)


def _find(name: str, problem: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise HostError(name, problem)
    return found


class _Recording:
    """A program under lackey, and the pipe that lackey writes to."""

    def __init__(self, lackey: list[str], command: Sequence[str]) -> None:
        read_end, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603  running what the user names is the purpose
                [*lackey, f"--log-fd={write_end}", *command], pass_fds=(write_end,)
            )
        except OSError as error:
            os.close(read_end)
            raise HostError(lackey[0], f"cannot be run: {error.strerror}") from None
        finally:
            os.close(write_end)
        self.stopped = False
        source = ByteSource(Path("lackey"), io.FileIO(read_end))
        self._reader = TextReader(source, LACKEY)

    @property
    def exit_code(self) -> int:
        """Return how the program ended."""
        return self._process.wait()

    def notes(self) -> tuple[str, ...]:
        """Return what has to be said of the trace."""
        return (*self._reader.notes(), *(("Stopped before the program's end.",) if self.stopped else ()))

    def store_into(self, writer: TraceWriter) -> Iterator[None]:
        """Append every block as it comes; a line that is cut off by Ctrl-C is no error."""
        try:
            for block in self._reader.blocks():
                writer.append(block)
                yield
        except FormatError:
            if not self.stopped:
                raise

    @contextmanager
    def stopped_by_ctrl_c(self) -> Iterator[None]:
        """Let Ctrl-C end the program instead of this process; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(_number: int, _frame: FrameType | None) -> None:
            self._process.kill() if self.stopped else self._process.terminate()
            self.stopped = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def kill(self) -> None:
        """Leave no process behind."""
        self._process.kill()
        self._process.wait()
