"""Damaged and hostile traces: a reader gives accesses and then, perhaps, a FormatError; never anything else.

Each example is a golden sample with bytes changed, cut, doubled or put in, packed before or after that, or not at all.
"""

import gzip
import lzma
import resource
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twofold as tf
from twofold.trace import FORMATS, open_reader
from twofold.trace.accesses import COLUMNS

pytestmark = pytest.mark.medium

GOLDEN = Path(__file__).parents[1] / "golden" / "traces"
SAMPLES = {
    path.name: path.read_bytes() for path in sorted(GOLDEN.iterdir()) if path.suffix not in {".md", ".c", ".zst"}
}
PACKERS = {"": lambda raw: raw, "xz": lambda raw: lzma.compress(raw, preset=0), "gzip": gzip.compress}
HUGE = (b"18446744073709551616", b"0xfffffffffffffffff", b"-1", b"9" * 200, b"99999", b"0x", b"\xff\xfe", b"\0", b"\n")
SECONDS = 20.0  # that one damaged sample of a few KiB may take, on a machine that is busy


@st.composite
def damage(draw, raw):
    """Return a sample, damaged a few times."""
    raw = bytearray(raw)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(len(raw) - 1, 0)))
        way = draw(st.sampled_from(("flip", "cut", "put in", "leave out", "again", "no end")))
        if way == "flip" and raw:
            raw[place] ^= draw(st.integers(1, 255))
        elif way == "cut":
            del raw[place:]
        elif way == "put in":
            raw[place:place] = draw(st.one_of(st.sampled_from(HUGE), st.binary(max_size=20)))
        elif way == "leave out":
            del raw[place : place + draw(st.integers(1, 300))]
        elif way == "again":
            raw += raw[place:]
        else:
            raw[place:place] = draw(st.sampled_from((b" ", b"=", b"0", b"[", b": ", b'"'))) * 70_000
    return bytes(raw)


@st.composite
def hostile_files(draw):
    """Return (bytes of a file, name of the format to read it by, or None)."""
    sample = draw(st.sampled_from(sorted(SAMPLES)))
    packing = draw(st.sampled_from(sorted(PACKERS)))
    raw = draw(damage(PACKERS[packing](draw(damage(SAMPLES[sample])))))
    return raw, draw(st.sampled_from((None, None, *FORMATS)))


def read_all(path, name):
    """Read a trace to its end, and check what every reader promises; return how many accesses it had."""
    accesses, notes, problem = 0, (), None
    try:
        reader = open_reader(path, name)
        for block in reader.blocks():
            assert len(block), "a block has accesses"
            assert all(getattr(block, column).dtype == dtype for column, dtype in COLUMNS.items())
            assert int(block.kinds.max()) <= 2
            accesses += len(block)
        notes = reader.notes()
    except tf.FormatError as error:
        problem = error
    assert all(isinstance(note, str) for note in notes)
    if problem is not None:
        assert problem.path == str(path)
        assert problem.offset is not None or not accesses
        assert "\n" not in str(problem)
        assert len(str(problem)) < 600
    return accesses


@given(hostile_files())
@settings(max_examples=150)
def test_a_damaged_trace_gives_accesses_and_then_perhaps_an_error(tmp_path_factory, file):
    path = tmp_path_factory.getbasetemp() / "hostile"
    path.write_bytes(file[0])
    start = time.monotonic()
    read_all(path, file[1])
    assert time.monotonic() - start < SECONDS


@pytest.mark.slow
@given(hostile_files())
@settings(max_examples=3000)
def test_many_damaged_traces(tmp_path_factory, file):
    path = tmp_path_factory.getbasetemp() / "hostile"
    path.write_bytes(file[0])
    read_all(path, file[1])


@given(hostile_files())
def test_what_a_conversion_keeps_is_what_reading_gave(tmp_path_factory, file):
    path = tmp_path_factory.getbasetemp() / "hostile"
    target = tmp_path_factory.getbasetemp() / "kept"
    path.write_bytes(file[0])
    try:
        converted = tf.convert_trace(path, target, file[1])
    except tf.FormatError:
        return
    assert converted.accesses == len(tf.Trace.load(target)) == read_all(path, file[1])


@given(st.binary(max_size=3000), st.sampled_from((None, *FORMATS)))
def test_bytes_that_were_never_a_trace_do_no_harm(tmp_path_factory, raw, name):
    path = tmp_path_factory.getbasetemp() / "hostile"
    path.write_bytes(raw)
    read_all(path, name)


FILLERS = {"zeros": b"\0", "blanks": b" ", "digits": b"0", "empty lines": b"\n", "accesses": b" L 0,1\n"}
QUICK = {("zeros", "champsim"), ("blanks", "gem5-exec"), ("accesses", "lackey")}
BOMBS = [(filler, name) for filler in FILLERS for name in FORMATS]


@pytest.mark.parametrize(
    ("filler", "name"), [pytest.param(*bomb, marks=[pytest.mark.slow] * (bomb not in QUICK)) for bomb in BOMBS]
)
def test_a_bomb_costs_little_memory(tmp_path, filler, name):
    """Some ten KiB that unpack to some hundred MiB, of what each format may take for its own."""
    path = tmp_path / "bomb.xz"
    path.write_bytes(lzma.compress(FILLERS[filler] * ((96 << 20) // len(FILLERS[filler])), preset=0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_all(path, name)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 << 10, "KiB"
