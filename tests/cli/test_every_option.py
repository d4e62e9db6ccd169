"""Every option of every command with every kind of wrong value: one line, no file left, no input changed.

The whole of it is slow; the medium set takes a sample, and the fast one a sample of that. What there
is to try, `every_option` finds.
"""

import hashlib
import os
import signal
import threading

import numpy as np
import pytest
from every_option import ARGUMENTS, commands, output_pairs, wrong_lines

from twofold.domain import DomainOptions, Machine
from twofold.freemaps import FreeMap
from twofold.mmu import profile
from twofold.trace import AREA_BASE, WORKLOADS, Trace

SECONDS = 100  # a value that was taken for right may mean any amount of work
FAST, MEDIUM = 240, 24  # of so many lines one is in the set
USAGE, FAILURE, FINDING = 2, 3, 1
LINES = list(wrong_lines())
PAIRS = list(output_pairs())


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """A folder with a small file of each kind that a command reads."""
    folder = tmp_path_factory.mktemp("samples")
    with Machine("64MiB", journal=folder / "machine.journal") as machine:
        machine.create_domain("8MiB", "web", DomainOptions(layout="flat")).memory.populate_physmap([0, 512], 9)
        machine.save(folder / "machine.twomachine")
    Trace.of(AREA_BASE + np.arange(100) * 4096).save(folder / "sample.twotrace")
    FreeMap.synthetic("64MiB").save(folder / "sample.twohost")
    (folder / "program.elf").write_bytes(WORKLOADS["stream"].program())
    (folder / "cpu.toml").write_bytes((profile._folder() / "zen3.toml").read_bytes())
    (folder / "scenario.toml").write_text('repeat = 1\n[host]\nsize = "256MiB"\n')
    return folder


@pytest.fixture
def filled(twofold, samples):
    """The command, in a folder with files that are right, and with what is no file to read."""
    for path in samples.iterdir():
        (twofold.folder / path.name).write_bytes(path.read_bytes())
    (twofold.folder / "junk").write_bytes(b"\x7fELF\x02\xff\xfe = junk\n" * 30)
    os.mkfifo(twofold.folder / "pipe")
    if os.geteuid():
        (twofold.folder / "unreadable").touch(mode=0)
    else:  # root reads whatever has a mode; this fails for it too
        (twofold.folder / "unreadable").symlink_to("/proc/self/mem")
    return twofold


def contents(folder):
    """Return what each name of a folder is."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() and not path.is_symlink()
        else "other"
        for path in folder.iterdir()
        if path.name != "unreadable"
    }


def run(twofold, argv):
    """Run a command line that should end soon."""
    late = threading.Timer(SECONDS, os.kill, (twofold.start(*argv), signal.SIGKILL))
    late.start()
    try:
        return twofold.finish()
    finally:
        late.cancel()


def test_every_command_has_a_line_that_is_right():
    missing = [
        f"{command.name} {parameter.name}"
        for command in commands()
        for parameter in command.parameters
        if command.is_argument(parameter)
        and command.right(parameter) is None
        and command.name not in {"cpus", "host show"}
    ]
    assert not missing, f"a right value is needed in ARGUMENTS: {missing}"
    assert all(any(name.startswith(each.name) for each in commands()) for name in ARGUMENTS)


@pytest.mark.medium
@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_the_right_line_runs_so_that_a_wrong_value_is_what_is_refused(filled, command):
    if command.words[-1] in {"capture", "snapshot"}:
        pytest.skip("needs what a machine may not have: its own tests run it")
    done = run(filled, command.argv())
    assert done.code == 0, done.err


def sampled(lines):
    """Return parameters of a test: few are fast, some are medium, the others are slow."""
    marks = [
        [] if index % FAST == 0 else [pytest.mark.medium] if index % MEDIUM == 0 else [pytest.mark.slow]
        for index in range(len(lines))
    ]
    return [pytest.param(*line[1:], id=line[0], marks=mark) for line, mark in zip(lines, marks, strict=True)]


@pytest.mark.parametrize(("argv", "may_be_right"), sampled(LINES))
def test_a_wrong_value_is_one_line_and_leaves_everything_as_it_was(filled, argv, may_be_right):
    before = contents(filled.folder)
    done = run(filled, argv)
    if may_be_right and done.code == 0:
        assert {name: what for name, what in contents(filled.folder).items() if name in before and name != "junk"} == {
            name: what for name, what in before.items() if name != "junk"
        }
        return
    assert done.code in {USAGE, FAILURE, FINDING}, done
    assert done.out == ""
    assert done.line.startswith("twofold: ")
    assert done.line.isprintable()
    assert len(done.line) < 500
    assert contents(filled.folder) == before


def names_of(file):
    """Return other names of a file: by a path, a symbolic link, a hard link."""
    folder = file.parent
    (folder / "symbolic").symlink_to(file.name)
    (folder / "chain").symlink_to("symbolic")
    names = [file.name, f"./{file.name}", str(file), f"../{folder.name}/{file.name}", "symbolic", "chain"]
    if file.exists():
        (folder / "hard").hardlink_to(file)
        names.append("hard")
    return names


@pytest.mark.parametrize(
    ("command", "output", "other", "file"),
    [
        pytest.param(*pair[1:], id=pair[0], marks=[pytest.mark.medium] * (index % 4 > 0))
        for index, pair in enumerate(PAIRS)
    ],
)
def test_an_output_over_an_input_or_another_output_is_refused_by_any_name(filled, command, output, other, file):
    names = names_of(filled.folder / file)
    before = contents(filled.folder)
    for name in names:
        argv = command.argv(**{output.name: name, other.name: file})
        done = run(filled, argv)
        assert (done.code, done.out) == (FAILURE, ""), (argv, done)
        assert output.spelling in done.line
        assert other.spelling in done.line
        assert contents(filled.folder) == before
