"""What happens in a command's first moments, and to one that has nowhere to write: one line, no traceback."""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from every_option import commands

from twofold.cli import guard
from twofold.cli.app import app
from twofold.cli.compare import keep_map
from twofold.freemaps import FreeMap
from twofold.kernels import _jit

MOMENTS = 4  # of each command, in its first SECONDS
SECONDS = 0.6
INTERRUPTED = b"twofold: interrupted; nothing was written\n"
COMMANDS = {command.name: command.argv() for command in commands()}
QUICK = {"cpus": ("cpus",), "version": ("--version",)}


def start(argv, folder, *options, **kept):
    """Start the command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, *options, "-m", "twofold", *argv],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kept,
    )


def interrupted_after(argv, folder, seconds):
    """Interrupt a command so long after its first line has run; return (exit code, output, what it says)."""
    process = start(argv, folder, "-X", "importtime")
    for line in process.stderr:
        if line.rstrip().endswith(b"twofold.start"):
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    said = b"".join(line for line in err.splitlines(keepends=True) if not line.startswith(b"import time:"))
    return process.returncode, out, said


@pytest.mark.medium
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_at_any_moment_is_one_line(name, tmp_path):
    moments = random.Random(name)  # noqa: S311  the same each time
    for seconds in (0.0, *(moments.uniform(0, SECONDS) for _ in range(MOMENTS - 1))):
        code, out, said = interrupted_after(COMMANDS[name], tmp_path, seconds)
        if code != 130:  # it had come to its end: the folder has none of the files that are named
            assert code in {0, 1, 3}
            assert b"Traceback" not in said
        else:
            assert out == b""
            assert said[-len(INTERRUPTED) :] == INTERRUPTED
            assert not said[: -len(INTERRUPTED)] or said.startswith(b"compiling kernels")


def test_ctrl_c_while_python_loads_the_command_is_one_line(tmp_path):
    assert interrupted_after(("cpus",), tmp_path, 0.0) == (130, b"", INTERRUPTED)


def test_a_program_that_imports_the_package_keeps_its_own_signals():
    code = "import signal, twofold; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", QUICK)
def test_closed_and_full_outputs_are_one_line(name, tmp_path):
    for redirection, reason in ((">&-", b"Bad file descriptor"), (">/dev/full", b"No space left on device")):
        done = in_shell(QUICK[name], redirection, tmp_path)
        assert (done.returncode, done.stderr) == (3, b"twofold: standard output: " + reason + b"\n")


@pytest.mark.medium
@pytest.mark.parametrize("redirection", ["2>&-", ">&- 2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_who_cannot_be_told_gets_the_exit_code(redirection, tmp_path):
    assert in_shell(("cpus", "nosuch"), redirection, tmp_path).returncode == 3
    assert in_shell(("nosuch",), redirection, tmp_path).returncode == 2


def test_closed_input_is_one_line(tmp_path):
    done = in_shell(("trace", "info", "-"), "<&-", tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith(b"twofold: -: at byte 0: cannot be read")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.medium
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_minds_where_it_writes(name, tmp_path):
    redirection = random.Random(name).choice([">&-", ">/dev/full", "2>&-", "2>/dev/full", "| head -c 0"])  # noqa: S311
    done = in_shell(COMMANDS[name], redirection, tmp_path)
    assert done.returncode in {0, 1, 3}
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def in_shell(argv, redirection, folder):
    """Run the command with its streams as a shell would have them."""
    words = " ".join([sys.executable, "-m", "twofold", *(f"'{word}'" for word in argv), redirection])
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    return subprocess.run(
        ["bash", "-c", f"{words}; exit ${{PIPESTATUS[0]}}"],
        cwd=folder,
        capture_output=True,
        check=False,
        env=environment,
    )


COLD = """
import sys
from twofold.kernels import heap
import numpy as np
from twofold.cli.first_use import told_of_kernels
with told_of_kernels(quiet="-q" in sys.argv):
    assert not heap.is_free(np.zeros(9, np.uint8), 8)
    assert not heap.is_free(np.zeros(9, np.uint8), 8)
"""


def told_when_cold(cache, *argv):
    """Return what is told while one kernel is compiled, with a cache of its own."""
    done = subprocess.run(
        [sys.executable, "-c", COLD, *argv],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


@pytest.mark.medium
def test_compiling_is_told_once_and_only_when_something_is_compiled(tmp_path):
    assert told_when_cold(tmp_path).splitlines() == ["compiling kernels, which takes a while at their first use"]
    assert told_when_cold(tmp_path) == ""


@pytest.mark.medium
def test_compiling_is_not_told_to_who_wants_no_talk(tmp_path):
    assert told_when_cold(tmp_path, "-q") == ""


@pytest.mark.medium
def test_a_cache_that_cannot_be_written_is_told_once_with_the_cure(tmp_path):
    (tmp_path / "twofold").touch()  # where a folder should be
    said = told_when_cold(tmp_path, "-q").splitlines()
    assert len(said) == 1
    assert said[0].startswith("compiled kernels cannot be kept in")
    assert "XDG_CACHE_HOME" in said[0]


def test_a_cache_that_fails_while_it_is_written_is_told_once_and_is_no_failure(monkeypatch, caplog):
    kept = object.__new__(_jit.KeptCode)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_jit.CheckedCache, "save_overload", full)
    monkeypatch.setattr(_jit.CheckedCache, "load_overload", full)
    _jit.tell_not_kept.cache_clear()
    assert kept.load_overload(None, None) is None
    kept.save_overload(None, None)
    assert [record.getMessage().count("No space left on device") for record in caplog.records] == [1]


def test_a_map_that_cannot_be_saved_beside_a_result_is_a_line(tmp_path, capsys):
    (tmp_path / "host-1.twohost").mkdir()
    assert not keep_map(FreeMap.synthetic("64MiB"), tmp_path / "host-1.twohost")
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a folder" in line
    assert keep_map(FreeMap.synthetic("64MiB"), tmp_path / "host-2.twohost")
    assert capsys.readouterr().err == ""


def test_every_command_is_told_of_kernels_that_are_compiled(monkeypatch):
    told = []
    monkeypatch.setattr(guard, "told_of_kernels", lambda *, quiet: told.append(quiet) or contextlib.nullcontext())
    command = guard.guarded(lambda: None)
    command()
    assert told == [False]
    assert {each.callback.__code__ for each in registered()} == {command.__code__}, "not all are guarded"


def registered(node=app):
    """Yield every command that is registered, those of groups too."""
    yield from node.registered_commands
    for group in node.registered_groups:
        yield from registered(group.typer_instance)


def test_an_address_that_leads_nowhere_exits_1(twofold):
    for extra in ((), ("--json",)):
        done = twofold("walk", "0x10", "--size", "256MiB", "--guest", "16MiB", *extra)
        assert (done.code, done.err) == (1, "")
        assert done.out


@pytest.mark.medium
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
@pytest.mark.parametrize(("program", "code"), [("true", 0), ("false", 1)])
def test_recording_a_program_that_fails_exits_1_and_keeps_the_trace(twofold, program, code):
    done = twofold("trace", "capture", "-o", "a.twotrace", "--", program)
    assert done.code == code
    assert twofold.files() == ["a.twotrace"]
