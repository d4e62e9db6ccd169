"""The trace object and its file: nothing is lost, what is broken is found, and little is resident."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import twofold as tf
from twofold.trace import stored
from twofold.trace.accesses import COLUMNS
from twofold.trace.layout import HEADER_BYTES, PART_ACCESSES, UNFINISHED, Header, LayoutError, PartHead, plan_part
from twofold.trace.pages import distinct_pages
from twofold.trace.stored import StoredParts, TraceWriter

SHORT_PART = 1 << 14  # accesses of a part where many are written; a file's own has 64 times as many
U64 = st.integers(0, 2**64 - 1)
U16 = st.integers(0, 2**16 - 1)
ROWS = st.lists(st.tuples(U64, U64, U16, U16, st.integers(0, 2)), max_size=50)
IN_A_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def trace_of(rows) -> tf.Trace:
    columns = list(zip(*rows, strict=True)) or [[]] * 5
    gvas, icounts, lengths, vcpus, kinds = (
        np.array(list(column), dtype) for column, dtype in zip(columns, COLUMNS.values(), strict=True)
    )
    return tf.Trace.of(gvas, icounts=icounts, lengths=lengths, vcpus=vcpus, kinds=kinds)


def rows_of(trace_or_blocks) -> list[tuple[int, ...]]:
    blocks = trace_or_blocks.blocks() if isinstance(trace_or_blocks, tf.Trace) else trace_or_blocks
    return [row for block in blocks for row in zip(*(getattr(block, name).tolist() for name in COLUMNS), strict=True)]


def trace_of_parts(part_accesses: int) -> tf.Trace:
    """Return three parts and a bit, every column in use."""
    numbers = np.arange(3 * part_accesses + 5, dtype=np.uint64)
    return tf.Trace.of(
        numbers * np.uint64(4096 + 8),
        kinds=(numbers % 3).astype(np.uint8),
        lengths=(numbers % 65).astype(np.uint16),
        vcpus=(numbers // np.uint64(part_accesses // 4)).astype(np.uint16),
        icounts=numbers // 2,
    )


@pytest.fixture
def long_trace(monkeypatch):
    """Three parts and a bit, while a file's parts are short ones."""
    monkeypatch.setattr(stored, "PART_ACCESSES", SHORT_PART)
    return trace_of_parts(SHORT_PART)


# -- in memory ----------------------------------------------------------------------------------------------------


def test_a_trace_of_addresses_is_one_of_loads():
    trace = tf.Trace.of([4096, 8192])
    assert rows_of(trace) == [(4096, 0, 0, 0, 0), (8192, 0, 0, 0, 0)]
    assert len(trace) == 2
    assert "2 accesses" in repr(trace)


def test_a_recording_of_a_run_keeps_its_stores_and_lengths():
    recording = np.array([(0x1000, 8, False), (0x2000, 4, True)], [("gva", "u8"), ("bytes", "u1"), ("write", "?")])
    assert rows_of(tf.Trace.of(recording)) == [(0x1000, 0, 8, 0, 0), (0x2000, 0, 4, 0, 1)]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"kinds": [0, 1, 2]}, "has 3 rows"),
        ({"lengths": 1 << 16}, "outside 0 to 0xffff"),
        ({"vcpus": [-1, 0]}, "outside 0 to 0xffff"),
    ],
)
def test_a_column_that_does_not_fit_is_refused(columns, problem):
    with pytest.raises(tf.FormatError, match=problem):
        tf.Trace.of([1, 2], **columns)


@given(ROWS, st.integers(1, 20))
def test_blocks_joined_are_the_trace(rows, accesses):
    trace = trace_of(rows)
    blocks = list(trace.blocks(accesses))
    assert all(len(block) <= accesses for block in blocks)
    assert rows_of(blocks) == [tuple(row) for row in rows]


@given(ROWS)
def test_gvas_are_those_of_loads_and_stores_unless_others_are_asked_for(rows):
    trace = trace_of(rows)
    assert [gva for block in trace.gvas() for gva in block.tolist()] == [row[0] for row in rows if row[4] < 2]
    assert [gva for block in trace for gva in block.tolist()] == [row[0] for row in rows if row[4] < 2]
    pairs = [pair for gvas, kinds in trace.accesses(3) for pair in zip(gvas.tolist(), kinds.tolist(), strict=True)]
    assert pairs == [(row[0], row[4]) for row in rows if row[4] < 2]
    fetches = [gva for block in trace.gvas((2,), accesses=3) for gva in block.tolist()]
    assert fetches == [row[0] for row in rows if row[4] == 2]


def test_a_block_of_no_accesses_is_refused():
    with pytest.raises(tf.SizeError):
        next(tf.Trace.of([1]).blocks(0))


# -- what is in it ------------------------------------------------------------------------------------------------


@given(ROWS)
def test_info_counts_what_is_there(rows):
    info = trace_of(rows).info()
    gvas = [row[0] for row in rows]
    assert (info.accesses, info.loads + info.stores + info.fetches) == (len(rows), len(rows))
    assert (info.loads, info.stores) == tuple(sum(row[4] == kind for row in rows) for kind in (0, 1))
    assert (info.lowest, info.highest) == ((min(gvas), max(gvas)) if gvas else (None, None))
    assert info.pages == {
        name: len({gva >> shift for gva in gvas}) for name, shift in (("4K", 12), ("2M", 21), ("1G", 30))
    }
    assert info.instructions == max((row[1] for row in rows), default=0)
    assert info.vcpus == {vcpu: sum(row[3] == vcpu for row in rows) for vcpu in {row[3] for row in rows}}


@given(ROWS, st.sampled_from([0, 9, 18]))
def test_pages_are_those_that_loads_and_stores_touch(rows, order):
    expected = sorted({row[0] >> 12 + order for row in rows if row[4] < 2})
    assert trace_of(rows).pages(order).tolist() == expected


def test_a_footprint_that_cannot_be_told_apart_is_counted_in_larger_pages(monkeypatch):
    monkeypatch.setattr("twofold.trace.summary.MAX_PAGES", 1000)
    info = tf.Trace.of(np.arange(4000, dtype=np.uint64) << np.uint64(12)).info()
    assert info.pages == {"4K": None, "2M": 8, "1G": 1}
    assert ("4K pages", "more than 1,000") in info.rows()


@given(st.lists(st.lists(st.integers(0, 3000), max_size=600), max_size=8), st.integers(1, 3000))
def test_distinct_pages_are_a_set_unless_there_are_more_than_may_be(blocks, most):
    gvas = [np.array(block, np.uint64) << np.uint64(12) for block in blocks]
    touched = sorted({number for block in blocks for number in block})
    found = distinct_pages(gvas, 0, most)
    assert (None if found is None else found.tolist()) == (touched if len(touched) <= most else None)


def test_pages_that_are_too_many_are_not_read_to_their_end():
    blocks = iter(np.arange(10_000, dtype=np.uint64).reshape(10, 1000) << np.uint64(12))
    assert distinct_pages(blocks, 0, 1500) is None
    assert len(list(blocks)) == 8


def test_more_pages_than_are_told_apart_are_an_error(monkeypatch):
    monkeypatch.setattr("twofold.trace.trace.MAX_PAGES", 1000)
    trace = tf.Trace.of(np.arange(4000, dtype=np.uint64) << np.uint64(12))
    with pytest.raises(tf.FormatError, match="touches more than 1000 pages"):
        trace.pages()
    assert trace.pages(9).tolist() == list(range(8))


# -- in a file ----------------------------------------------------------------------------------------------------


@given(ROWS)
@IN_A_FOLDER
def test_a_file_gives_back_every_access(tmp_path, rows):
    path = tmp_path / "a.twotrace"
    trace_of(rows).save(path)
    again = tf.Trace.load(path)
    assert rows_of(again) == [tuple(row) for row in rows]
    assert (len(again), again.source) == (len(rows), "memory")


def test_equal_traces_make_equal_files_and_a_copy_of_a_file_is_equal_too(tmp_path, long_trace):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    long_trace.save(paths[0])
    long_trace.save(paths[1])
    converted = tf.convert_trace(paths[0], paths[2])
    assert (converted.accesses, converted.problem) == (len(long_trace), None)
    assert len({path.read_bytes() for path in paths}) == 1
    assert len(list(tmp_path.iterdir())) == 3, "no draft is left"


@pytest.mark.medium
def test_a_long_file_is_equal_in_every_column(tmp_path):
    long_trace = trace_of_parts(PART_ACCESSES)
    long_trace.save(tmp_path / "a")
    again = tf.Trace.load(tmp_path / "a")
    (whole,) = long_trace.blocks(len(long_trace))
    blocks = list(again.blocks())
    for name in COLUMNS:
        assert (np.concatenate([getattr(block, name) for block in blocks]) == getattr(whole, name)).all()
    assert again.info() == long_trace.info()


def test_a_trace_of_loads_takes_eight_bytes_an_access(tmp_path):
    tf.Trace.of(np.arange(PART_ACCESSES, dtype=np.uint64)).save(tmp_path / "a")
    assert (tmp_path / "a").stat().st_size < 8 * PART_ACCESSES + 16384


def test_accesses_of_a_file_are_read_where_they_stand(tmp_path, long_trace):
    long_trace.save(tmp_path / "a")
    block = next(tf.Trace.load(tmp_path / "a").blocks())
    assert block.gvas.flags.aligned
    assert not block.gvas.flags.owndata, "mapped, not copied"
    block.gvas[:] = 7
    assert next(tf.Trace.load(tmp_path / "a").blocks()).gvas[1] == 4104, "a change stays with who made it"


def test_notes_and_source_are_kept(tmp_path):
    trace = tf.Trace([tf.TraceBlock.of([1])], "lackey", ["one", "two"])
    trace.save(tmp_path / "a")
    again = tf.Trace.load(tmp_path / "a")
    assert (again.source, again.notes) == ("lackey", ("one", "two"))


def test_notes_that_do_not_fit_the_header_are_left_out():
    header = Header(1, 1, "x" * 9999, ("short", "y" * 5000))
    assert Header.decode(header.encode()) == Header(1, 1, "x" * 200, ("short",))


def test_a_run_and_its_trace_cost_the_same(tmp_path):
    with tf.Machine("1GiB") as machine:
        domain = machine.create_domain("64MiB")
        tf.build(domain, "small")
        guest = tf.Guest(domain, footprint="1MiB")
        run = tf.run(guest, tf.Program.workload("gups", steps=50))
        trace = tf.Trace.of(run.trace)
        trace.save(tmp_path / "a")
        stats = [tf.simulate(each, guest) for each in (run.trace, trace, tf.Trace.load(tmp_path / "a"))]
    assert stats[0] == stats[1] == stats[2]
    assert trace.info().stores == 50


# -- files that are not whole -------------------------------------------------------------------------------------


def whole_parts(path: Path) -> int:
    return sum(len(block) for block in StoredParts(path))


@pytest.mark.parametrize(("missing", "parts"), [(1, 3), (3000, 3), (320 << 10, 2), (800 << 10, 0)])
def test_a_file_that_was_cut_says_where_and_keeps_its_whole_parts(tmp_path, long_trace, missing, parts):
    path = tmp_path / "a"
    long_trace.save(path)
    os.truncate(path, path.stat().st_size - missing)
    with pytest.raises(tf.FormatError, match=r"a: at byte \d+: ends in a part") as caught:
        tf.Trace.load(path)
    assert caught.value.offset == path.stat().st_size
    assert whole_parts(path) == parts * SHORT_PART
    if not parts:
        with pytest.raises(tf.FormatError, match="ends in a part"):
            tf.convert_trace(path, tmp_path / "b")
        return
    converted = tf.convert_trace(path, tmp_path / "b")
    assert converted.problem.offset == caught.value.offset
    assert converted.accesses == parts * SHORT_PART
    again = tf.Trace.load(tmp_path / "b")
    assert len(again) == converted.accesses
    assert again.notes[-1].startswith("Cut short: ends in a part")


def test_a_file_that_ends_between_two_parts_is_missed_something_by_its_header(tmp_path, long_trace):
    path = tmp_path / "a"
    long_trace.save(path)
    last = StoredParts(path)._heads[-1][0]
    os.truncate(path, last)
    with pytest.raises(tf.FormatError, match=f"has {3 * SHORT_PART} accesses, and its header says"):
        tf.Trace.load(path)


def test_a_draft_says_that_it_is_one_and_has_its_whole_parts(tmp_path, long_trace):
    path = tmp_path / "draft"
    with path.open("wb") as file:
        writer = TraceWriter(file, "memory")
        for block in long_trace.blocks():
            writer.append(block)
    assert struct.unpack_from("<Q", path.read_bytes(), 16) == (UNFINISHED,)
    with pytest.raises(tf.FormatError, match="was not finished"):
        tf.Trace.load(path)
    assert whole_parts(path) == 3 * SHORT_PART


def test_an_access_that_changed_on_disk_is_found_and_what_stands_before_is_kept(tmp_path, long_trace):
    path = tmp_path / "a"
    long_trace.save(path)
    parts = StoredParts(path)
    start = parts._heads[1][0]
    with path.open("r+b") as file:
        file.seek(start + 5000)
        file.write(b"\xff")
    with pytest.raises(tf.FormatError, match="checksum") as caught:
        tf.Trace.load(path).info()
    assert caught.value.offset == start
    blocks = tf.Trace.load(path).verified()
    first = next(long_trace.blocks()).gvas[:SHORT_PART]
    np.testing.assert_array_equal(next(blocks).gvas, first, "what stands before is yielded")
    with pytest.raises(tf.FormatError, match="checksum"):
        next(blocks)
    assert tf.convert_trace(path, tmp_path / "b").accesses == SHORT_PART


def test_a_write_that_fails_leaves_nothing(tmp_path):
    class Broken(list):
        def __iter__(self):
            yield tf.TraceBlock.of([1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tf.Trace(Broken()).save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"TWO", b"TWOTRACE", b"TWOTRACE" + bytes(HEADER_BYTES), b"PK\3\4" * 2000])
def test_what_is_no_trace_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(tf.FormatError):
        tf.Trace.load(tmp_path / "a")


@pytest.mark.parametrize("name", ["missing", ".", "a\0b"])
def test_what_cannot_be_read_is_refused(tmp_path, name):
    with pytest.raises(tf.FormatError, match="cannot be read"):
        tf.Trace.load(tmp_path / name)


def test_another_version_is_refused(tmp_path):
    raw = bytearray(Header(0, 0, "x").encode())
    raw[8] = 9
    (tmp_path / "a").write_bytes(raw)
    with pytest.raises(tf.FormatError, match="version 9"):
        tf.Trace.load(tmp_path / "a")


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.lists(U64, min_size=10, max_size=10))
def test_a_part_head_that_says_more_than_it_has_is_refused(accesses, bytes_, numbers):
    """A checksum is no protection from who can compute it."""
    columns = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    head = PartHead(accesses, columns, bytes_, 0)
    honest = plan_part(accesses, tuple(at > 0 for at, _ in columns), columns, 0)
    try:
        decoded = PartHead.decode(head.encode())
    except LayoutError:
        return
    assert decoded == head == honest
    assert accesses <= PART_ACCESSES


@given(st.data())
@IN_A_FOLDER
def test_a_damaged_file_gives_a_prefix_or_an_error_and_nothing_else(tmp_path, data):
    path = tmp_path / "a"
    tf.Trace.of(np.arange(600, dtype=np.uint64), kinds=np.arange(600) % 3).save(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        trace = tf.Trace.load(path)
        trace.info()
    except tf.FormatError:
        return
    assert rows_of(trace) == [(gva, 0, 0, 0, gva % 3) for gva in range(600)]
