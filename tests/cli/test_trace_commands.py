"""Trace files on the command line: what is kept of broken ones and interrupted work, what they cost, their curves."""

import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from twofold.domain import Machine, build
from twofold.guest import TraceGuest
from twofold.study import simulate
from twofold.trace import AREA_BASE, WORKLOADS, Trace

TRACES = Path(__file__).parents[1] / "golden" / "traces"
NEEDS_VALGRIND = pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
PROMPT_SECONDS = 2.0


def wait_for(path, seconds=60):
    """Wait until a file is there."""
    for _ in range(seconds * 20):
        if list(path.parent.glob(path.name)):
            return
        time.sleep(0.05)
    pytest.fail(f"no {path.name}")


def test_what_stands_before_a_broken_place_is_written_and_the_exit_code_is_3(twofold):
    (twofold.folder / "t").write_text(" L 10,8\n S 20,8\ngarbage\n L 30,8\n")
    done = twofold("trace", "convert", "t", "a.twotrace", "--from", "lackey", "-q")
    assert (done.code, done.out) == (3, "")
    assert done.line == (
        "twofold: t: at byte 16: line 3 is no line of Valgrind's lackey: 'garbage'; what stands before that was kept"
    )
    trace = Trace.load(twofold.folder / "a.twotrace")
    assert [gva for block in trace.gvas() for gva in block.tolist()] == [0x10, 0x20]
    done = twofold("trace", "info", "t", "--from", "lackey", "--json")
    assert done.code == 3
    assert json.loads(done.out)["stores"] == 1


def test_a_trace_is_told_apart_and_shown_in_json(twofold):
    done = twofold("trace", "info", TRACES / "instructions.champsim.xz", "--json")
    assert (done.code, done.err) == (0, "")
    shown = json.loads(done.out)
    assert (shown["version"], shown["source"], shown["accesses"]) == (2, "champsim", 68)
    assert shown["pages"] == {"4K": 27, "2M": 4, "1G": 3}


def test_a_quiet_conversion_says_nothing(twofold):
    done = twofold("trace", "convert", TRACES / "lackey.txt", "a.twotrace", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert twofold.files() == ["a.twotrace"]


def test_ctrl_c_ends_a_conversion_at_once_and_leaves_nothing(twofold):
    os.mkfifo(twofold.folder / "pipe")
    pid = twofold.start("trace", "convert", "pipe", "a.twotrace", "--from", "lackey")
    with (twofold.folder / "pipe").open("wb", buffering=0) as pipe:
        pipe.write(b" L 10,8\n" * 1000)
        wait_for(twofold.folder / ".twofold-*.partial")
        start = time.monotonic()
        os.kill(pid, signal.SIGINT)
        done = twofold.finish()
    assert time.monotonic() - start < PROMPT_SECONDS
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1] == "twofold: interrupted; nothing was written"
    assert twofold.files() == ["pipe"]


@pytest.mark.medium
@NEEDS_VALGRIND
def test_a_captured_program_keeps_its_output_and_its_trace_has_what_it_did(twofold):
    done = twofold("trace", "capture", "-o", "a.twotrace", "--", "echo", "--quiet", "hello")
    assert (done.code, done.out) == (0, "--quiet hello\n")
    assert "ended with 0" in done.line
    info = Trace.load(twofold.folder / "a.twotrace").info()
    assert info.loads > 1000
    assert info.stores > 1000
    assert info.fetches == info.instructions > 10_000
    assert info.source == "lackey of echo"


@pytest.mark.medium
@NEEDS_VALGRIND
def test_a_program_that_fails_is_captured_all_the_same(twofold):
    done = twofold("trace", "capture", "--", "false")
    assert done.code == 1
    assert "ended with 1" in done.line
    assert twofold.files() == ["false.twotrace"]


@pytest.mark.medium
@NEEDS_VALGRIND
def test_ctrl_c_ends_a_captured_program_and_keeps_its_trace(twofold):
    pid = twofold.start("trace", "capture", "-o", "a.twotrace", "--", "sh", "-c", "while true; do :; done")
    draft = twofold.folder / ".twofold-*.partial"
    wait_for(draft)
    while next(draft.parent.glob(draft.name)).stat().st_size < 1 << 20:
        time.sleep(0.05)
    os.kill(pid, signal.SIGINT)
    done = twofold.finish()
    assert done.code == 0, done.err
    assert done.line.endswith("the program stopped")
    trace = Trace.load(twofold.folder / "a.twotrace")
    assert len(trace) > 10_000
    assert trace.notes[-1] == "Stopped before the program's end."
    assert twofold.files() == ["a.twotrace"]


def test_without_valgrind_one_line_says_so(twofold):
    done = twofold("trace", "capture", "--", sys.executable, PATH=str(twofold.folder))
    assert (done.code, done.out) == (3, "")
    assert done.line == "twofold: valgrind: is not installed; recording a program takes its tool lackey"
    assert twofold.files() == []


# -- simulate -----------------------------------------------------------------------------------------------------

HOST = ("--size", "1GiB", "--guest", "64MiB")


def test_a_trace_file_costs_what_its_accesses_cost(twofold):
    gvas = AREA_BASE + (np.arange(20_000, dtype=np.uint64) * np.uint64(77 * 4096)) % np.uint64(16 << 20)
    Trace.of(gvas, kinds=np.arange(20_000) % 3).save(twofold.folder / "a.twotrace")
    done = twofold("simulate", "a.twotrace", *HOST, "--json", "--warmup", "100", "--design", "small")
    assert (done.code, done.err) == (0, "")
    shown = json.loads(done.out)
    with Machine("1GiB") as machine:
        domain = machine.create_domain("64MiB")
        build(domain, "small")
        kinds = np.arange(20_000) % 3
        data = Trace.of(gvas[kinds < 2], kinds=kinds[kinds < 2])
        stats = simulate(data, TraceGuest(domain, data), warmup=100)
    assert shown["stats"]["walks"] == stats.walks > 0
    assert shown["ratios"]["reads per walk"] == round(stats.reads_per_walk, 3)
    assert shown["resident_bytes"] > 1 << 20
    assert "reads per walk" in twofold("simulate", "a.twotrace", *HOST).out


@pytest.mark.medium
def test_a_simulation_that_would_hold_too_much_is_given_up(twofold):
    Trace.of([AREA_BASE]).save(twofold.folder / "a.twotrace")
    done = twofold("simulate", "a.twotrace", *HOST, "--max-memory", "1MiB")
    assert (done.code, done.out) == (3, "")
    assert "1MiB' is too little memory" in done.line
    assert twofold("simulate", "a.twotrace", *HOST, "--max-memory", "4GiB").code == 0
    assert twofold("simulate", "a.twotrace", *HOST, "--max-memory", "much").code == 3


def test_an_access_that_changed_on_disk_is_found_before_anything_is_priced(twofold):
    path = twofold.folder / "a.twotrace"
    Trace.of(AREA_BASE + np.arange(1000, dtype=np.uint64) * np.uint64(64)).save(path)
    with path.open("r+b") as file:
        file.seek(4096 + 256 + 8 * 500)  # the header, the head of the part, 500 addresses
        file.write(b"\x01")
    for command in (("simulate", path.name, *HOST), ("curve", path.name)):
        done = twofold(*command)
        assert (done.code, done.out) == (3, "")
        assert done.line == "twofold: a.twotrace: at byte 4096: has a part whose accesses do not match their checksum"


@pytest.mark.medium
def test_a_trace_of_another_tool_is_priced_on_pages_of_its_own(twofold):
    assert twofold("trace", "convert", TRACES / "lackey.txt", "a.twotrace", "-q").code == 0
    for pages in ("4K", "thp", "1G"):
        size = ("--size", "8GiB", "--guest", "4GiB") if pages == "1G" else HOST
        done = twofold("simulate", "a.twotrace", *size, "--guest-pages", pages, "--json")
        assert (done.code, done.err) == (0, ""), pages
        assert json.loads(done.out)["stats"]["accesses"] == 60


def test_a_guest_that_is_too_small_for_a_trace_is_refused(twofold):
    Trace.of(np.arange(20_000, dtype=np.uint64) << np.uint64(12)).save(twofold.folder / "a.twotrace")
    done = twofold("simulate", "a.twotrace", *HOST)
    assert done.code == 3
    assert "touches more than" in done.line


# -- curve --------------------------------------------------------------------------------------------------------

STRUCTURES = ("--page-sizes", "4K,2M", "--sets", "1,16", "--ways", "64", "--warmup", "700")


def workload_files(folder, gvas):
    """Write the same loads and stores as trace files of three kinds, with fetches between them; return their names."""
    fetched = np.insert(gvas, np.arange(0, len(gvas), 3), 0x400000)
    kinds = np.where(fetched == 0x400000, 2, np.arange(len(fetched)) % 2)
    Trace.of(fetched, kinds=kinds).save(folder / "own.twotrace")
    text = "".join(
        f"{(' L', ' S', 'I ')[kind]} {gva:x},8\n" for gva, kind in zip(fetched.tolist(), kinds.tolist(), strict=True)
    )
    (folder / "lackey.txt").write_text(text)
    (folder / "packed.xz").write_bytes(lzma.compress(text.encode()))
    return ("own.twotrace", "lackey.txt", "packed.xz")


@pytest.mark.medium
@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_a_workload_in_a_trace_file_has_the_curves_of_the_workload(twofold, form):
    gvas = np.concatenate(list(WORKLOADS["kv"].blocks(5, AREA_BASE, 16 << 20, 20_700)))
    names = workload_files(twofold.folder, gvas)
    workload = ("kv", "--footprint", "16MiB", "--seed", "5", "--accesses", "20000")
    wanted = twofold("curve", *workload, *STRUCTURES, form)
    assert wanted.code == 0
    for name in names:
        assert twofold("curve", name, *STRUCTURES, form) == wanted, name


def test_a_file_is_read_as_far_as_its_accesses_are_wanted(twofold):
    text = "".join(f" L {page << 12:x},8\n" for page in range(1000))
    (twofold.folder / "t").write_text(text + "garbage\n")
    done = twofold("curve", "t", "--from", "lackey", "--accesses", "600", "--warmup", "300", "--ways", "1", "--json")
    assert json.loads(done.out)["curves"] == [{"page_size": "4K", "sets": 1, "misses": [600, 600]}]
    Trace.of(np.arange(50) << 12).save(twofold.folder / "a.twotrace")
    done = twofold("curve", "a.twotrace", "--accesses", "600", "--ways", "1", "--json")
    assert json.loads(done.out)["curves"][0]["misses"] == [50, 50], "there are no more"


def test_an_access_counts_for_the_page_of_its_first_byte(twofold):
    (twofold.folder / "t").write_text(" L 1ffc,8\n L 1000,4\n L 2000,4\n")
    done = twofold("curve", "t", "--ways", "2", "--json")
    assert json.loads(done.out)["curves"][0]["misses"] == [3, 2, 2]


@pytest.mark.medium
def test_a_trace_comes_by_standard_input_too(twofold, executable):
    done = subprocess.run(
        [executable, "curve", "-", "--from", "csv", "--ways", "1", "--csv"],
        input=(TRACES / "accesses.csv").read_bytes(),
        capture_output=True,
        cwd=twofold.folder,
        check=True,
    )
    assert done.stdout.splitlines()[0] == b"page_size,sets,ways,entries,misses,misses_per_1000"
    assert done.stderr == b""


@pytest.mark.medium
def test_a_broken_trace_has_no_curves_but_a_place(twofold):
    Trace.of(np.arange(2000) << 12, kinds=np.arange(2000) % 2).save(twofold.folder / "a.twotrace")
    bytes_ = (twofold.folder / "a.twotrace").stat().st_size
    os.truncate(twofold.folder / "a.twotrace", bytes_ - 100)
    (twofold.folder / "t").write_text(" L 10,8\n S 20,8\n L 3")
    (twofold.folder / "t.xz").write_bytes(lzma.compress(b" L 10,8\n" * 5000)[:-20])
    for name, problem in (
        ("a.twotrace", f"at byte {bytes_ - 100}: ends in a part, 100 bytes before the end of it"),
        ("t", "at byte 16: line 3 is cut off by the end of the file: ' L 3'"),
        ("t.xz", "ends in the middle of its xz data"),
    ):
        done = twofold("curve", name)
        assert (done.code, done.out) == (3, ""), name
        assert done.line.startswith(f"twofold: {name}: at byte ")
        assert problem in done.line


@pytest.mark.medium
def test_a_workload_goes_before_a_file_of_its_name(twofold):
    Trace.of([0, 0, 4096]).save(twofold.folder / "kv")
    argv = ("--accesses", "100", "--ways", "1", "--json")
    assert json.loads(twofold("curve", "kv", *argv).out)["curves"][0]["misses"][0] == 100
    assert json.loads(twofold("curve", "./kv", *argv).out)["curves"][0]["misses"] == [3, 2]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("argv", "code", "problem"),
    [
        (("t", "--seed", "0"), 2, "--seed has no effect on a trace file"),
        (("t", "--skew", "0", "--footprint", "1MiB"), 2, "--footprint and --skew have no effect on a trace file"),
        (("gups", "--from", "csv"), 2, "--from has no effect on a workload"),
        (("t", "--from", "pin"), 3, "unknown trace format 'pin'"),
        (("t", "--max-memory", "1MiB"), 3, "1MiB' is too little memory"),
        (("gups", "--max-memory", "1MiB"), 3, "1MiB' is too little memory"),
        (("gups.twotrace",), 3, "gups.twotrace: is no file and no workload; known are gups, "),
        (("t", "--report", "missing/r.html"), 3, "cannot be written"),
        ((".",), 3, "cannot be read"),
    ],
)
def test_a_curve_of_a_file_says_in_one_line_what_is_wrong(twofold, argv, code, problem):
    (twofold.folder / "t").write_text(" L 10,8\n")
    done = twofold("curve", *argv)
    assert (done.code, done.out) == (code, "")
    assert problem in done.line
    assert twofold.files() == ["t"]


def test_a_page_of_curves_is_titled_by_its_file_and_quiet_says_nothing(twofold):
    (twofold.folder / "t").write_text(" L 10,8\n")
    done = twofold("curve", "t", "--ways", "2", "--report", "r.html", "-q")
    assert (done.code, done.err) == (0, "")
    assert "miss curves of t<" in (twofold.folder / "r.html").read_text()
