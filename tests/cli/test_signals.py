"""Ctrl-C, and readers that go away."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

HOST = ("--size", "1GiB", "--guest", "64MiB", "--repeat", "1")
LONG = ("compare", *HOST, "--workload", "gups", "--accesses", str(10**11))
PROMPT_SECONDS = 2.0  # a second on a quiet machine


def begun(pid, seconds=0.25):
    """Wait until a process has used so much processor time: it is at work by then."""
    tick = os.sysconf("SC_CLK_TCK")
    for _ in range(600):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if (int(fields[11]) + int(fields[12])) / tick > seconds:
            return
        time.sleep(0.05)
    pytest.fail("the command did not begin")


@pytest.mark.medium
@pytest.mark.parametrize("extra", [(), ("--json",), ("-o", "r.csv", "--csv")])
def test_ctrl_c_ends_a_comparison_at_once_and_leaves_nothing(twofold, extra):
    pid = twofold.start(*LONG, *extra)
    begun(pid)
    start = time.monotonic()
    os.kill(pid, signal.SIGINT)
    done = twofold.finish()
    assert time.monotonic() - start < PROMPT_SECONDS
    assert (done.code, done.out) == (130, "")
    assert done.line == "twofold: interrupted; nothing was written"
    assert twofold.files() == []


def test_ctrl_c_ends_a_program_that_runs_for_ever(twofold):
    pid = twofold.start("run", "gups", "--size", "1GiB", "--guest", "64MiB", "--steps", str(10**12))
    begun(pid)
    start = time.monotonic()
    os.kill(pid, signal.SIGINT)
    assert twofold.finish().code == 130
    assert time.monotonic() - start < PROMPT_SECONDS


@pytest.mark.medium
@pytest.mark.skipif(not os.access("/proc/kpageflags", os.R_OK), reason="needs /proc/kpageflags (root)")
def test_ctrl_c_leaves_no_snapshot_of_this_host(twofold):
    pid = twofold.start("compare", "--guest", "64MiB", "--workload", "gups", "--accesses", str(10**11))
    begun(pid)
    time.sleep(0.5)
    os.kill(pid, signal.SIGINT)
    assert twofold.finish().code == 130
    assert twofold.files() == []


@pytest.mark.medium
def test_the_installed_command_ends_at_once_too(executable, tmp_path):
    """A process from its very start, with an interpreter that would wait for threads at its end."""
    process = subprocess.Popen([executable, *LONG], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    begun(process.pid, seconds=5)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - start < PROMPT_SECONDS
    assert (process.returncode, out) == (130, b"")
    assert b"interrupted; nothing was written" in err
    assert b"Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["cpus zen3", "walk --size 1GiB --guest 64MiB --json", "compare --help"])
def test_a_reader_that_has_gone_is_no_error(twofold, tmp_path_factory, command):
    pipe = tmp_path_factory.mktemp("pipe") / "out"
    os.mkfifo(pipe)
    twofold.start(*command.split(), stdout=pipe)
    os.close(os.open(pipe, os.O_RDONLY))
    done = twofold.finish()
    assert (done.code, done.err) == (0, "")


@pytest.mark.medium
@pytest.mark.parametrize("command", ["cpus zen3", "walk --size 1GiB --guest 64MiB --json"])
def test_the_installed_command_may_be_read_in_part(executable, tmp_path, command):
    done = subprocess.run(
        ["bash", "-c", f"{executable} {command} | head -1; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1
