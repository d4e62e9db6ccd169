"""Every example in every help text runs, one after the other, in a folder that is empty at first."""

import os
import shutil

import pytest
from command_tree import BY_NAME, NAMES, examples_of

NEEDS = {
    "trace capture": (shutil.which("valgrind"), "valgrind"),
    "host snapshot": (os.access("/proc/buddyinfo", os.R_OK), "/proc/buddyinfo"),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_an_example_of_itself_in_its_help(twofold, name):
    done = twofold(*name.split(), "--help")
    assert (done.code, done.err) == (0, "")
    examples = examples_of(done.out)
    assert examples, "no example"
    assert examples[-1][: len(name.split())] == name.split(), "the last one is of another command"


@pytest.mark.medium
@pytest.mark.parametrize("name", NAMES)
def test_every_example_of_a_help_runs_in_an_empty_folder(twofold, name):
    is_there, what = NEEDS.get(name, (True, ""))
    if not is_there:
        pytest.skip(f"needs {what}")
    examples = examples_of(twofold(*name.split(), "--help").out)
    for argv in examples:
        done = twofold(*argv)
        assert done.code == 0, (argv, done.err)
        assert done.out or done.err, argv
        assert "Traceback" not in done.err
    assert set(twofold.files()) <= {word for argv in examples for word in argv}, "a file that nobody named"


@pytest.mark.parametrize("words", [(), ("trace",), ("host",), *((name,) for name in NAMES)], ids=" ".join)
def test_a_short_h_is_help_everywhere(twofold, words):
    argv = " ".join(words).split()
    short, long = twofold(*argv, "-h"), twofold(*argv, "--help")
    assert short == long
    assert short.code == 0
    assert short.out.startswith(" ".join(["Usage: twofold", *argv]))


def test_the_examples_are_found_by_looking():
    assert {"compare", "trace convert", "host show"} <= set(NAMES) == set(BY_NAME)
    assert examples_of("  Example:\n\n      twofold cpus zen3\n\nOptions:\n") == [["cpus", "zen3"]]
    with pytest.raises(AssertionError, match="no whole command"):
        examples_of("  Example:\n\n      twofold a very long\n      line of it\n\nOptions:\n")
