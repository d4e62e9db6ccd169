"""One set of words: the same options, by the same names, wherever they mean something; and what they do."""

import csv
import gzip
import io
import json
import lzma
import os
import runpy
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from command_tree import BUILDERS, BY_NAME, options_of

import twofold as tf
from twofold.trace import AREA_BASE, Trace

HOST = ("--size", "1GiB", "--guest", "64MiB")
TRACES = Path(__file__).parents[1] / "golden" / "traces"
HOST_WORDS = ("--host", "--size", "--free", "--fragmentation", "--packing", "--seed")
MODE_WORDS = ("--host-paging", "--table-format", "--guest-mode", "--paging", "--behaviour")
GUEST_WORDS = ("--guest", "--layout", "--page-sizes", "--exact", "--design", "--designs", "--json")
ONE_GUEST = {
    "run": ("run", "gups", "--steps", "20"),
    "walk": ("walk", "+0x1000"),
    "simulate": ("simulate", "t.twotrace"),
}
ALL = ONE_GUEST | {
    "build": ("build",),
    "compare": ("compare", "--workload", "stream", "--guest-pages", "4K", "--accesses", "300", "--repeat", "1"),
}


@pytest.fixture
def trace(twofold):
    """A trace file in the folder of the command."""
    gvas = AREA_BASE + (np.arange(3000, dtype=np.uint64) * np.uint64(77 * 4096)) % np.uint64(16 << 20)
    Trace.of(gvas, kinds=np.arange(3000) % 3).save(twofold.folder / "t.twotrace")
    return twofold.folder / "t.twotrace"


def document(done):
    """Return the JSON that a command has printed, without what differs from run to run."""
    assert (done.code, done.err) == (0, ""), done
    found = json.loads(done.out)
    found.pop("resident_bytes", None)
    return found


# -- one set of options -------------------------------------------------------------------------------------------


def test_every_command_that_builds_takes_every_word_of_host_mode_and_guest():
    assert set(BUILDERS) == set(ALL)
    for name in BUILDERS:
        lacking = {*HOST_WORDS, *MODE_WORDS, *GUEST_WORDS} - options_of(BY_NAME[name])
        assert not lacking, (name, lacking)


def test_whoever_takes_a_design_takes_both_of_its_names():
    for name, command in BY_NAME.items():
        assert len({"--design", "--designs"} & options_of(command)) in {0, 2}, name


@pytest.mark.parametrize("name", ALL)
def test_both_names_of_a_design_mean_the_same(twofold, trace, name):
    one, other = (
        document(twofold(*ALL[name], *HOST, option, "small", "--json")) for option in ("--design", "--designs")
    )
    assert one == other


@pytest.mark.parametrize("name", ONE_GUEST)
@pytest.mark.parametrize(
    ("option", "listed"), [("--design", "small,toolstack"), ("--behaviour", "twofold,xen-4.17"), ("--cpu", "zen2,zen3")]
)
def test_where_one_guest_is_built_a_list_is_refused_in_one_line(twofold, trace, name, option, listed):
    if option not in options_of(BY_NAME[name]):
        return
    done = twofold(*ONE_GUEST[name], *HOST, option, listed)
    assert (done.code, done.out) == (2, "") or option == "--cpu"
    assert option in done.line or option == "--cpu"
    assert listed in done.line


@pytest.mark.medium
def test_what_a_word_does_it_does_in_every_command(twofold, trace):
    """The words that some commands lacked: a host that is made up otherwise, an exact range, a behaviour."""
    words = ("--free", "90%", "--fragmentation", "0", "--exact", "0:4MiB:4K", "--layout", "flat", "--seed", "3")
    build = document(twofold("build", *HOST, *words, "--design", "toolstack", "--json"))["designs"]["toolstack"]
    assert build["leaves"] == {"0": 1024, "9": 30, "18": 0}
    walk = document(twofold("walk", "+0", *HOST, *words, "--json", "--footprint", "32MiB"))
    assert any(not step["guest"] and step["meaning"].startswith("4K leaf") for step in walk["steps"])
    without = document(twofold("walk", "+0", *HOST, *words[:4], *words[6:], "--json", "--footprint", "32MiB"))
    assert len(without["steps"]) < len(walk["steps"])
    for name in ("run", "simulate"):
        ours, theirs = (
            document(twofold(*ONE_GUEST[name], *HOST, *words, "--behaviour", each, "--json"))
            for each in ("twofold", "xen-4.17")
        )
        assert ours == theirs, "the same accesses on tables of the same shape"


# -- versions -------------------------------------------------------------------------------------------------------


def test_the_version_is_said_by_the_command_the_module_and_the_package(twofold):
    done = twofold("--version")
    assert (done.code, done.out, done.err) == (0, f"twofold {tf.__version__}\n", "")
    module = subprocess.run([sys.executable, "-m", "twofold", "--version"], capture_output=True, text=True, check=True)
    assert module.stdout == done.out
    assert metadata.version("twofold") == tf.__version__, "what is installed is another version"
    assert tf.__version__.split(".")[0].isdecimal()


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "twofold", "walk", "-h"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: twofold walk ")


# -- a page on standard output --------------------------------------------------------------------------------------

QUICK = (*ALL["compare"], *HOST)
CURVE = ("curve", "kv", "--footprint", "1MiB", "--accesses", "1000", "--ways", "8")


@pytest.mark.medium
@pytest.mark.parametrize("argv", [QUICK, CURVE], ids=["compare", "curve"])
def test_a_page_on_standard_output_is_all_that_stands_there(twofold, argv):
    printed = twofold(*argv, "--report", "-")
    assert (printed.code, printed.err) == (0, "")
    assert twofold.files() == []
    filed = twofold(*argv, "--report", "page.html")
    assert filed.line == "report: page.html"
    assert (twofold.folder / "page.html").read_text() == printed.out
    assert printed.out.startswith("<!DOCTYPE html>")
    assert printed.out.rstrip().endswith("</html>")


@pytest.mark.parametrize("argv", [(*QUICK, "--json"), (*QUICK, "--csv"), (*QUICK, "-o", "-"), (*CURVE, "--json")])
def test_a_page_and_a_result_do_not_share_standard_output(twofold, argv):
    done = twofold(*argv, "--report", "-")
    assert (done.code, done.out) == (2, "")
    assert "--report -" in done.line
    assert twofold.files() == []


def test_a_result_in_a_file_goes_with_a_page_on_standard_output(twofold):
    done = twofold(*QUICK, "--json", "-o", "r.json", "--report", "-")
    assert done.code == 0
    assert done.out.startswith("<!DOCTYPE html>")
    assert json.loads((twofold.folder / "r.json").read_text())["version"] == 2


# -- traces of any format -------------------------------------------------------------------------------------------


def test_simulate_reads_what_curve_reads(twofold):
    """Other tools' formats, packed, named, and from a pipe: each costs what its trace file costs."""
    text = (TRACES / "lackey.txt").read_bytes()
    (twofold.folder / "l.xz").write_bytes(lzma.compress(text))
    assert twofold("trace", "convert", TRACES / "lackey.txt", "l.twotrace", "-q").code == 0
    argv = (*HOST, "--json", "-q")
    wanted = document(twofold("simulate", "l.twotrace", *argv))
    assert wanted["stats"]["accesses"] == 60
    for form in ((TRACES / "lackey.txt",), ("l.xz",), (TRACES / "lackey.txt", "--from", "lackey")):
        assert document(twofold("simulate", *form, *argv)) == wanted
    (twofold.folder / "own.gz").write_bytes(gzip.compress((twofold.folder / "l.twotrace").read_bytes()))
    assert document(twofold("simulate", "own.gz", *argv)) == wanted


@pytest.mark.medium
@pytest.mark.parametrize("name", sorted(each.name for each in TRACES.iterdir()))
def test_simulate_and_curve_read_the_same_files(twofold, name):
    curve = twofold("curve", TRACES / name, "--ways", "1", "-q")
    done = twofold("simulate", TRACES / name, *HOST, "-q")
    assert done.code == curve.code
    assert done.err == curve.err


@pytest.mark.medium
@pytest.mark.parametrize(
    "argv", [("simulate", "-"), ("compare", "--repeat", "1", "--guest-pages", "4K", "--trace", "-")]
)
def test_a_trace_comes_through_standard_input(twofold, argv):
    with (TRACES / "lackey.txt").open("rb") as text:
        piped = subprocess.run(
            [sys.executable, "-m", "twofold", *argv, *HOST, "--json", "-q"],
            stdin=text, cwd=twofold.folder, capture_output=True, check=True, text=True,
        )  # fmt: skip
    named = document(twofold(*argv[:-1], TRACES / "lackey.txt", *HOST, "--json", "-q"))
    found = json.loads(piped.stdout)
    if argv[0] == "simulate":
        assert found["stats"] == named["stats"]
    else:
        figures = [[(row["trace_digest"], row["speedup"]) for row in each["rows"]] for each in (found, named)]
        assert figures[0] == figures[1]
        assert {row["workload"] for row in found["rows"]} == {"stdin"}


def test_a_trace_that_breaks_off_is_priced_by_nobody(twofold):
    (twofold.folder / "t").write_text(" L 10,8\n S 20,8\ngarbage\n L 30,8\n")
    for argv in (("simulate", "t", *HOST), ("compare", "--trace", "t", *HOST), ("curve", "t")):
        done = twofold(*argv, "--from", "lackey", "-q")
        assert (done.code, done.out) == (3, "")
        assert "at byte 16: line 3" in done.line
    assert twofold.files() == ["t"]


@pytest.mark.medium
@pytest.mark.parametrize("argv", [("simulate", "pipe"), ("compare", "--trace", "pipe", "--repeat", "1")])
def test_ctrl_c_while_a_trace_is_read_leaves_nothing(twofold, argv):
    os.mkfifo(twofold.folder / "pipe")
    pid = twofold.start(*argv, *HOST, "--from", "lackey", "-q")
    with (twofold.folder / "pipe").open("wb", buffering=0) as pipe:
        pipe.write(b" L 10,8\n" * 1000)
        os.kill(pid, signal.SIGINT)
        done = twofold.finish()
    assert (done.code, done.out) == (130, "")
    assert done.line == "twofold: interrupted; nothing was written"
    assert twofold.files() == ["pipe"]


COMPARE = ("compare", *HOST, "--repeat", "1", "--guest-pages", "4K,thp")


def test_compare_prices_every_design_on_a_trace_as_simulate_does(twofold, trace):
    found = document(twofold(*COMPARE, "--trace", "t.twotrace", "--warmup", "100", "--json", "-q"))
    assert len(found["rows"]) == 3 * 2
    for row in found["rows"]:
        argv = ("simulate", "t.twotrace", *HOST, "--design", row["design"], "--guest-pages", row["guest_pages"])
        alone = document(twofold(*argv, "--warmup", "100", "--json", "-q"))["ratios"]
        assert round(row["misses_per_1000"], 3) == alone["misses per 1000"] > 0
        assert round(row["cycles_per_access"], 3) == alone["translation cycles per access"]
        assert (row["workload"], row["answer"]) == ("t.twotrace", None)
        assert row["trace_digest"] == found["scenario"]["trace"]["digest"]
    assert any(row["trace_digest"] in sentence for sentence in found["assumptions"])
    assert found["footprint"] == len(np.unique(Trace.load(trace).pages())) * 4096
    assert "t.twotrace" not in json.dumps(found["scenario"] | {"trace": ""})


@pytest.mark.medium
def test_the_trace_of_a_comparison_stands_wherever_a_workload_does(twofold, trace):
    argv = (*COMPARE, "--trace", "t.twotrace", "-q", "--assumptions")
    table = twofold(*argv, "--report", "page.html").out
    assert "the accesses of t.twotrace are translated" in " ".join(table.split())
    assert ["4K", "t.twotrace", "small"] in [line.split()[:3] for line in table.splitlines()]
    page = (twofold.folder / "page.html").read_text()
    assert "<dt>trace</dt><dd>t.twotrace, " in page
    rows = list(csv.DictReader(io.StringIO(twofold(*COMPARE, "--trace", "t.twotrace", "--csv", "-q").out)))
    assert {row["workload"] for row in rows} == {"t.twotrace"}
    assert len({row["trace_digest"] for row in rows} - {""}) == 1


@pytest.mark.medium
def test_the_digest_of_a_trace_is_that_of_its_accesses(twofold):
    """Of its format, and of fetches between them, nothing depends."""
    (twofold.folder / "a.txt").write_text("I  400000,4\n L 1000,8\n S 2000,8\n")
    Trace.of([0x1000, 0x2000], kinds=[0, 1]).save(twofold.folder / "b.twotrace")
    Trace.of([0x1000, 0x2000], kinds=[1, 1]).save(twofold.folder / "c.twotrace")
    same, own, other = (
        document(twofold(*COMPARE, "--trace", name, "--json", "-q"))["scenario"]["trace"]["digest"]
        for name in ("a.txt", "b.twotrace", "c.twotrace")
    )
    assert same == own != other


@pytest.mark.medium
def test_a_scenario_file_has_a_trace_and_options_win_over_it(twofold, trace):
    (twofold.folder / "s.toml").write_text(
        'repeat = 1\nwarmup = 5\n[host]\nsize = "1GiB"\n[guest]\nmemory = "64MiB"\n'
        '[trace]\nfile = "t.twotrace"\nplacement = "scattered"\n'
    )
    found = document(twofold("compare", "--scenario", "s.toml", "--guest-pages", "4K", "--json", "-q"))
    assert found["scenario"]["trace"]["placement"] == "scattered"
    argv = ("--placement", "contiguous", "--accesses", "50")
    near = document(twofold("compare", "--scenario", "s.toml", "--guest-pages", "4K", *argv, "--json", "-q"))
    assert near["scenario"]["trace"]["placement"] == "contiguous"
    assert any("50 loads and stores after a warm-up of 5" in each for each in near["assumptions"])
    argv = ("--workload", "stream", "--accesses", "100", "--guest-pages", "4K")
    ran = document(twofold("compare", "--scenario", "s.toml", *argv, "--json", "-q"))
    assert {row["workload"] for row in ran["rows"]} == {"stream"}
    assert "trace" not in ran["scenario"]


WRONG = [
    (("--trace", "t.twotrace", "--workload", "gups"), 2, "--workload"),
    (("--trace", "t.twotrace", "--footprint", "1MiB"), 2, "--footprint"),
    (("--placement", "scattered"), 2, "--trace"),
    (("--from", "lackey"), 2, "--trace"),
    (("--trace", "t.twotrace", "--placement", "far"), 3, "placement 'far'"),
    (("--trace", "t.twotrace", "--from", "pin"), 3, "trace format 'pin'"),
    (("--trace", "t.twotrace", "--guest-pages", "2M"), 3, "it has 4K, thp, 1G"),
    (("--workload", "gups", "--guest-pages", "thp"), 3, "it has 4K, 2M, 1G"),
    (("--trace", "t.twotrace", "--warmup", "2000"), 3, "2000"),
    (("--trace", "fetches.txt"), 3, "fetches.txt"),
    (("--trace", "missing"), 3, "missing"),
    (("--trace", ""), 3, ""),
    (("--trace", "."), 3, ""),
]


@pytest.mark.parametrize(
    ("argv", "code", "problem"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_what_cannot_be_compared_on_a_trace_is_refused_in_one_line(twofold, trace, argv, code, problem):
    (twofold.folder / "fetches.txt").write_text("I  400000,4\nI  400004,4\n")
    done = twofold("compare", *HOST, *argv, "--repeat", "1", "-q")
    assert (done.code, done.out) == (code, "")
    assert problem in done.line
    assert twofold.files() == ["fetches.txt", "t.twotrace"]


def test_a_guest_that_cannot_map_a_trace_says_so_by_mode(twofold):
    Trace.of([0x1000, 1 << 40]).save(twofold.folder / "wide.twotrace")
    done = twofold(*COMPARE[:-2], "--trace", "wide.twotrace", "--host-paging", "4-level,pae", "--guest-pages", "4K")
    assert done.code == 0
    assert "not possible, gva 0x10000000000 of the trace is beyond the 4GiB that a pae guest has" in " ".join(
        done.out.split()
    )


def test_translation_that_costs_nothing_has_no_infinite_gain(twofold):
    Trace.of([0x1000] * 10).save(twofold.folder / "one.twotrace")
    found = document(twofold(*COMPARE, "--trace", "one.twotrace", "--warmup", "2", "--json", "-q"))
    assert {row["cycles_per_access"] for row in found["rows"]} == {0}
    assert {row["speedup"] for row in found["rows"]} == {1.0}


# -- what run and build save ----------------------------------------------------------------------------------------


def test_what_a_program_did_is_priced_again_from_its_trace(twofold):
    done = twofold("run", "gups", *HOST, "--steps", "500", "--save-trace", "g.twotrace", "--json")
    measured = json.loads(done.out)["measured"]
    assert (done.code, measured) == (0, 1000)
    info = document(twofold("trace", "info", "g.twotrace", "--json"))
    assert (info["accesses"], info["loads"], info["source"]) == (measured, 500, "run of gups")
    assert document(twofold("simulate", "g.twotrace", *HOST, "--json"))["stats"]["accesses"] == measured
    assert document(twofold(*COMPARE, "--trace", "g.twotrace", "--json", "-q"))["rows"]


def test_what_building_did_is_done_again_from_its_journal(twofold):
    argv = (
        "build",
        *HOST,
        "--design",
        "opportunistic",
        "--host-paging",
        "pae",
        "--behaviour",
        "xen-4.17",
        "--seed",
        "7",
    )
    done = twofold(*argv, "--save-journal", "m.journal", "--save", "m.twomachine", "--json")
    built = document(done)["designs"]
    replayed = document(twofold("replay", "m.journal", "--json"))
    (leaves,) = (each["leaves"] for each in built.values())
    assert replayed["leaves"] == leaves
    assert replayed["damage"] == ""
    assert twofold("audit", "m.twomachine").code == 0
    assert twofold.files() == ["m.journal", "m.twomachine"]


@pytest.mark.parametrize(
    "argv",
    [
        ("build", *HOST, "--save-journal", "m.journal"),
        ("build", *HOST, "--design", "small", "--save-journal", "missing/m.journal"),
        ("build", "--size", "64MiB", "--guest", "1GiB", "--design", "small", "--save-journal", "m.journal"),
        ("build", *HOST, "--design", "small", "--save-journal", "."),
        ("run", "gups", *HOST, "--save-trace", "missing/g.twotrace"),
        ("run", "gups", *HOST, "--save-trace", "."),
        ("run", "nothing", *HOST, "--save-trace", "g.twotrace"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_saves_nothing(twofold, argv):
    done = twofold(*argv)
    assert done.code in {2, 3}
    assert done.out == ""
    assert done.line.startswith("twofold: ")
    assert twofold.files() == []


@pytest.mark.parametrize(
    "argv",
    [
        ("run", "gups", *HOST, "--save-trace"),
        ("build", *HOST, "--design", "small", "--save"),
        ("build", *HOST, "--design", "small", "--save-journal"),
        ("host", "snapshot"),
        ("trace", "convert", TRACES / "lackey.txt"),
        ("trace", "capture", "-o"),
    ],
    ids=lambda argv: " ".join(map(str, argv[-2:])),
)
def test_what_is_no_text_does_not_go_to_standard_output_nor_to_a_file_of_that_name(twofold, argv):
    done = twofold(*argv, "-", *(("--", "true") if argv[-1] == "-o" else ()))
    assert (done.code, done.out) == (3, "")
    assert "-: is standard output, where this file cannot go" in done.line
    assert twofold.files() == []


def test_a_program_that_faults_leaves_the_trace_of_what_came_before(twofold):
    tiny = runpy.run_path(str(Path(__file__).parents[1] / "guest" / "tiny_elf.py"))
    (twofold.folder / "bad.elf").write_bytes(tiny["code"](tiny["load_from"](0xDEAD0000)))
    done = twofold("run", "bad.elf", *HOST, "--save-trace", "bad.twotrace")
    assert done.code == 1
    assert "which is not mapped" in done.line
    assert document(twofold("trace", "info", "bad.twotrace", "--json"))["source"] == "run of bad.elf"


def test_a_journal_that_is_there_stays_whole_until_another_is(twofold):
    good = ("build", *HOST, "--design", "small", "--save-journal", "m.journal")
    assert twofold(*good).code == 0
    before = (twofold.folder / "m.journal").read_bytes()
    assert twofold(*good, "--guest", "2GiB").code == 3
    assert (twofold.folder / "m.journal").read_bytes() == before
    assert twofold(*good, "--seed", "9").code == 0
    assert (twofold.folder / "m.journal").read_bytes() != before
    assert twofold.files() == ["m.journal"]
