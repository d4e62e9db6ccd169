"""Traces of other tools: the golden samples, one by one; packed files; and files that end too early."""

import gzip
import importlib.util
import io
import lzma
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twofold as tf
from twofold.trace import FORMATS, open_reader
from twofold.trace.packed import ByteSource
from twofold.trace.text_formats import TEXT_FORMATS
from twofold.trace.text_reader import MAX_LINE_BYTES, TextReader

GOLDEN = Path(__file__).parents[1] / "golden" / "traces"
ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
HAS_ZSTD = importlib.util.find_spec(ZSTD.partition(".")[0]) is not None and importlib.util.find_spec(ZSTD) is not None
NEEDS_ZSTD = pytest.mark.skipif(not HAS_ZSTD, reason="needs backports.zstd, or Python 3.14")
SAMPLES = {
    "lackey.txt": ("lackey", 202),
    "drmemtrace.txt": ("drmemtrace", 16),
    "execlog.txt": ("execlog", 202),
    "execlog_system.txt": ("execlog", 65),
    "perf_script.txt": ("perf-script", 7),
    "perf_mem.txt": ("perf-mem", 7),
    "perf_mem_commas.txt": ("perf-mem", 7),
    "gem5_packets.txt": ("gem5-packets", 4),
    "gem5_exec.txt": ("gem5-exec", 4),
    "instructions.champsim": ("champsim", 68),
    "instructions.champsim.xz": ("champsim", 68),
    "instructions.champsim.zst": ("champsim", 68),
    "load_type.champsim": ("champsim-load-type", 68),
    "cloudsuite.champsim": ("champsim-cloudsuite", 59),
    "perf_script_colon.txt": ("perf-script", 2),
    "perf_script_fields.txt": ("perf-script", 2),
    "perf_mem_phys_commas.txt": ("perf-mem", 2),
    "lackey_superblocks.txt": ("lackey", 4),
    "drmemtrace_2022.txt": ("drmemtrace", 3),
    "gem5_vector_strided.txt": ("gem5-exec", 3),
    "gem5_stdlib_cores.txt": ("gem5-exec", 3),
    "gem5_whole_stdout.txt": ("gem5-exec", 1),
    "accesses.csv": ("csv", 4),
}
LOAD, STORE, FETCH = 0, 1, 2


def rows_of(blocks):
    """Return (gva, kind, length, vcpu, icount) of every access."""
    return [
        row
        for block in blocks
        for row in zip(
            *(getattr(block, name).tolist() for name in ("gvas", "kinds", "lengths", "vcpus", "icounts")), strict=True
        )
    ]


def read(path, name=None):
    return rows_of(open_reader(path, name).blocks())


def read_text(tmp_path, text, name=None):
    path = tmp_path / "t"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path, name)


# -- the golden samples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_sample_is_known_by_what_it_holds(sample):
    if sample.endswith(".zst") and not HAS_ZSTD:
        pytest.skip("needs backports.zstd, or Python 3.14")
    name, accesses = SAMPLES[sample]
    reader = open_reader(GOLDEN / sample)
    rows = rows_of(reader.blocks())
    assert (reader.name, len(rows)) == (name, accesses)
    assert read(GOLDEN / sample, name) == rows


def test_there_is_a_sample_of_every_format():
    assert {name for name, _ in SAMPLES.values()} | {"twotrace"} == set(FORMATS)
    assert {path.name for path in GOLDEN.iterdir()} == set(SAMPLES) | {"README.md", "sample.c"}


def test_valgrind_and_qemu_tell_the_same_of_one_program():
    """Two tools that know nothing of each other ran the same binary: the same accesses in the same order."""
    lackey, execlog = (read(GOLDEN / name) for name in ("lackey.txt", "execlog.txt"))
    assert [(gva, kind, icount) for gva, kind, _, _, icount in lackey] == [
        (gva, kind, icount) for gva, kind, _, _, icount in execlog
    ]
    assert sum(kind == STORE for _, kind, *_ in lackey) == 36


def test_what_sample_c_stores_is_what_lackey_saw():
    data = [(gva, kind, length) for gva, kind, length, _, _ in read(GOLDEN / "lackey.txt") if kind != FETCH]
    table = data[0][0]
    for i in range(12):
        store, load, *modify, byte = data[5 * i : 5 * i + 5]
        assert store == (table + 8 * 160 * i, STORE, 8)
        assert load == (table + 8 * (97 * i % 2048), LOAD, 8)
        assert modify == [(table + 8, LOAD, 8), (table + 8, STORE, 8)]
        assert byte[1:] == (STORE, 1)


def test_drmemtrace_keeps_threads_apart_and_leaves_out_what_is_no_access():
    rows = read(GOLDEN / "drmemtrace.txt")
    assert rows[:3] == [
        (0x7FDF6A1C3090, FETCH, 3, 0, 1),
        (0x7FDF6A1C3093, FETCH, 5, 0, 2),
        (0x7FFCB3B5E668, STORE, 8, 0, 2),
    ]
    assert [row[3] for row in rows] == [0] * 5 + [1] * 11
    assert [row[0] for row in rows if row[1] == LOAD] == [0x7FDF64E2ADC8, 0x7FDF64E2B000, 0x7FDF64E2B001]
    assert sum(row[0] == 0x404A8D and row[1] == FETCH for row in rows) == 1, "rep movs is fetched once"
    reader = open_reader(GOLDEN / "drmemtrace.txt")
    list(reader.blocks())
    assert reader.notes() == ("vCPU 0 is thread 2765542, 1 is thread 2765543.", "Prefetches are left out.")


def test_the_log_of_a_whole_system_says_that_its_addresses_are_physical():
    reader = open_reader(GOLDEN / "execlog_system.txt")
    rows = rows_of(reader.blocks())
    assert any("guest-physical" in note for note in reader.notes())
    assert [row[0] for row in rows if row[1] != FETCH][:4] == [0x100FFFFE9, 0x100FFFFEB, 0x100FFFFC9, 0x100FFFFCD]
    reader = open_reader(GOLDEN / "execlog.txt")
    list(reader.blocks())
    assert reader.notes() == ("Lengths are not in the log.",)


def test_the_two_forms_of_perf_mem_are_the_same_samples_as_perf_script():
    columns, commas, script = (
        [row[0] for row in read(GOLDEN / name)] for name in ("perf_mem.txt", "perf_mem_commas.txt", "perf_script.txt")
    )
    assert columns == commas == script
    assert script[0] == 0x401000


def test_a_gem5_log_gives_its_loads_and_stores_with_their_cpu():
    assert [row[:4] for row in read(GOLDEN / "gem5_exec.txt")] == [
        (0x7FFFFFFFEE30, LOAD, 0, 0),
        (0x4C1000, STORE, 0, 0),
        (0x4C2000, LOAD, 0, 1),
        (0x4C2008, STORE, 0, 2),
    ]
    assert [row[:3] for row in read(GOLDEN / "gem5_packets.txt")] == [
        (4096, LOAD, 64),
        (4160, STORE, 64),
        (1 << 30, LOAD, 8),
        ((1 << 30) + 8, STORE, 4),
    ]


def test_champsim_gives_the_fetch_the_loads_and_the_stores_of_each_instruction():
    rows = read(GOLDEN / "instructions.champsim")
    expected = []
    for i in range(24):
        expected.append((0x401000 + 4 * i, FETCH, 0, 0, i + 1))
        expected.append((0x7F0000000000 + 4096 * i, LOAD, 0, 0, i + 1))
        expected += [(0x600000 + 8 * i, LOAD, 0, 0, i + 1)] * (i % 3 == 0)
        expected += [(0x7FFC00001000 - 8 * i, STORE, 0, 0, i + 1)] * (i % 2)
    assert rows == expected
    assert read(GOLDEN / "instructions.champsim.xz") == expected
    assert read(GOLDEN / "load_type.champsim") == expected


@NEEDS_ZSTD
def test_a_trace_packed_by_zstd_is_the_same():
    assert read(GOLDEN / "instructions.champsim.zst") == read(GOLDEN / "instructions.champsim")


@pytest.mark.skipif(HAS_ZSTD, reason="backports.zstd is installed")
def test_without_a_decoder_of_zstd_one_line_says_what_to_install():
    with pytest.raises(tf.FormatError, match=r"install backports\.zstd"):
        open_reader(GOLDEN / "instructions.champsim.zst")


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_converted_sample_holds_the_same(tmp_path, sample):
    if sample.endswith(".zst") and not HAS_ZSTD:
        pytest.skip("needs backports.zstd, or Python 3.14")
    converted = tf.convert_trace(GOLDEN / sample, tmp_path / "a")
    assert (converted.source, converted.accesses) == SAMPLES[sample]
    trace = tf.Trace.load(tmp_path / "a")
    assert rows_of(trace.blocks()) == read(GOLDEN / sample)
    assert trace.source == converted.source
    assert read(tmp_path / "a") == read(GOLDEN / sample), "our own format is read like any other"


# -- lines that samples do not have -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("p 1 [003] 1.5: 1 cpu/mem-loads,ldlat=30/P: 7ffe9600 40\n", (0x7FFE9600, LOAD, 0, 3, 0)),
        ("p q 1 1.5: cpu/mem-stores/P: ffff888100000000 f+0x1 (x)   40 g+0x2 (y)\n", (0xFFFF888100000000, STORE)),
        ("p 1 1.5: ibs_op//: 7ffe9600 68100144 |OP STORE|LVL L1 or L2 hit\n", (0x7FFE9600, STORE)),
        ("p 1 1.5: page-faults: 7ffe9600\n", (0x7FFE9600, LOAD)),
    ],
)
def test_perf_script_says_what_it_sampled(tmp_path, line, row):
    (found,) = read_text(tmp_path, line)
    assert found[: len(row)] == row


@pytest.mark.parametrize(
    ("operation", "kind"), [(0x68100142, LOAD), (0x68100144, STORE), (0x68100150, FETCH), (0x1, LOAD)]
)
def test_perf_mem_says_what_it_sampled(tmp_path, operation, kind):
    text = f"# PID, TID, IP, ADDR, LOCAL WEIGHT, DSRC, SYMBOL\n7 7 0x40 0x7ffe 12 {operation:#x} /x:f\n"
    assert [row[:2] for row in read_text(tmp_path, text)] == [(0x7FFE, kind)]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("address\n0x1000\n8192\n", [(0x1000, LOAD, 0, 0, 0), (0x2000, LOAD, 0, 0, 0)]),
        ("Addr;Write\r\n0x1000;1\r\n# note\r\n\r\n0x2000;false", [(0x1000, STORE, 0, 0, 0), (0x2000, LOAD, 0, 0, 0)]),
        ("x\tva\ttype\ty\n, \t16\tIfetch\t\n", [(16, FETCH, 0, 0, 1)]),
        ("tid,gva\n900,1\n800,2\n900,3\n", [(1, LOAD, 0, 0, 0), (2, LOAD, 0, 1, 0), (3, LOAD, 0, 0, 0)]),
    ],
)  # fmt: skip
def test_columns_of_a_csv_file_are_found_by_their_names(tmp_path, text, rows):
    assert read_text(tmp_path, text) == rows


def test_a_csv_file_with_two_columns_of_addresses_is_refused(tmp_path):
    with pytest.raises(tf.FormatError, match="two columns for gva"):
        read_text(tmp_path, "addr,vaddr\n1,2\n")


def test_a_new_execlog_that_logs_registers_is_read(tmp_path):
    text = '3, 0x40, 0x90, "nop"\n3, 0x41, 0x8b, "mov", load, 0x1000, rax -> 0x00, rip -> 0x45\n'
    assert [row[:4] for row in read_text(tmp_path, text)] == [(0x40, 2, 0, 3), (0x41, 2, 0, 3), (0x1000, 0, 0, 3)]


# -- files that are not what they should be -----------------------------------------------------------------------


def test_a_line_that_is_none_is_named_by_its_place_and_what_stands_before_is_kept(tmp_path):
    path = tmp_path / "t"
    path.write_text("==1== x\n L 10,8\nI  20,4\n L 30;8\n L 40,8\n")
    reader, rows = open_reader(path, "lackey"), []
    with pytest.raises(tf.FormatError) as caught:
        rows += rows_of(block for block in reader.blocks())
    assert str(caught.value) == f"{path}: at byte 24: line 4 is no line of Valgrind's lackey: ' L 30;8'"
    assert caught.value.offset == 24
    converted = tf.convert_trace(path, tmp_path / "a", "lackey")
    assert (converted.accesses, converted.problem.offset) == (2, 24)
    assert [row[0] for row in read(tmp_path / "a")] == [0x10, 0x20]


def test_a_text_that_was_cut_is_noticed_though_what_is_left_would_do(tmp_path):
    with pytest.raises(tf.FormatError, match=r"line 2 is cut off by the end of the file: ' L 20,1'"):
        read_text(tmp_path, " L 10,16\n L 20,1")


def test_records_that_were_cut_are_noticed(tmp_path):
    raw = (GOLDEN / "instructions.champsim").read_bytes()
    (tmp_path / "t").write_bytes(raw[:-10])
    converted = tf.convert_trace(tmp_path / "t", tmp_path / "a")
    assert converted.problem.problem == "ends in a record of 64 bytes, 10 before its end"
    assert converted.problem.offset == len(raw) - 10
    assert converted.accesses == 65


@pytest.mark.medium
def test_packed_data_that_were_cut_give_everything_before(tmp_path):
    lines = "".join(f" L {gva:x},8\n" for gva in range(0, 1 << 22, 37))
    packed = lzma.compress(lines.encode())
    (tmp_path / "t.xz").write_bytes(packed[: len(packed) // 2])
    converted = tf.convert_trace(tmp_path / "t.xz", tmp_path / "a")
    assert converted.problem.problem == "ends in the middle of its xz data"
    assert converted.problem.offset == len(packed) // 2
    assert converted.accesses > 30_000
    assert [row[0] for row in read(tmp_path / "a")[:-1]] == list(range(0, 37 * (converted.accesses - 1), 37))


def test_a_place_in_a_packed_file_is_said_to_be_one_of_what_it_unpacks_to(tmp_path):
    with pytest.raises(tf.FormatError, match="at byte 8: line 2 of the unpacked data is no line"):
        read_text(tmp_path, lzma.compress(b" L 10,8\ngarbage\n"), "lackey")


def test_a_pipe_that_gives_a_byte_at_a_time_is_unpacked_too(tmp_path):
    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 1))

    source = ByteSource(tmp_path, Slow(lzma.compress(b" L 10,8\n S 20,8\n")))
    assert [row[0] for row in rows_of(TextReader(source, TEXT_FORMATS["lackey"]).blocks())] == [0x10, 0x20]


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_packed_files_may_hold_several_streams_and_padding(tmp_path, pack):
    text = pack(b" L 10,8\n") + pack(b" S 20,8\n") + bytes(8)
    assert [row[0] for row in read_text(tmp_path, text)] == [0x10, 0x20]


def test_what_follows_packed_data_is_refused(tmp_path):
    with pytest.raises(tf.FormatError, match="does not unpack"):
        read_text(tmp_path, lzma.compress(b" L 10,8\n") + b"garbage" * 9)


@pytest.mark.medium
def test_a_bomb_is_refused(tmp_path):
    record = (GOLDEN / "instructions.champsim").read_bytes()[:64]
    bomb = lzma.compress(record * ((80 << 20) // len(record)), preset=0)
    with pytest.raises(tf.FormatError, match="unpacks to more than 4096 times its size"):
        read_text(tmp_path, bomb, "champsim")


def test_a_decoder_takes_no_more_memory_than_it_may(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 << 20}]
    with pytest.raises(tf.FormatError, match="does not unpack"):
        read_text(tmp_path, lzma.compress(b" L 10,8\n", filters=filters))


def test_a_line_without_an_end_is_refused(tmp_path):
    text = b" L 10,8\n" + b"=" * (MAX_LINE_BYTES + 1)
    with pytest.raises(tf.FormatError, match=r"line 2 is longer than 65536 bytes"):
        read_text(tmp_path, text, "lackey") if len(text) > 4 << 20 else list(small(tmp_path, text).blocks())
    with pytest.raises(tf.FormatError, match="at byte 0: line 1 is longer"):
        read(Path("/dev/zero"), "lackey")


def small(tmp_path, text, form="lackey"):
    """Return a reader that looks at as little at a time as it can."""
    (tmp_path / "t").write_bytes(text)
    source = ByteSource(tmp_path / "t", (tmp_path / "t").open("rb", buffering=0))
    return TextReader(source, TEXT_FORMATS[form], chunk=MAX_LINE_BYTES)


def test_chunks_of_any_length_give_the_same(tmp_path):
    text = b"".join(b" L %x,8\n==%s\n" % (gva, b"-" * (gva % 61)) for gva in range(0, 1 << 17, 9))
    assert rows_of(small(tmp_path, text).blocks()) == read(tmp_path / "t")


@pytest.mark.parametrize("text", [b"", b"\n\n", b"\0" * 6400, b"hello\n", b"\xff" * 640, os.urandom(6400)])
def test_what_is_no_trace_is_refused(tmp_path, text):
    with pytest.raises(tf.FormatError, match="no trace that is known"):
        read_text(tmp_path, text)


@pytest.mark.parametrize("name", ["missing", ".", "a\0b"])
def test_what_cannot_be_read_is_refused(tmp_path, name):
    with pytest.raises(tf.FormatError, match="cannot be read"):
        open_reader(tmp_path / name)


def test_an_unknown_format_is_refused():
    with pytest.raises(tf.UnknownNameError, match="lackey"):
        open_reader(GOLDEN / "lackey.txt", "pin")


def test_a_target_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(tf.FormatError, match="no folder"):
        tf.convert_trace(Path("/dev/zero"), tmp_path / "no" / "a")


def test_a_broken_file_without_an_access_leaves_nothing(tmp_path):
    (tmp_path / "t").write_text("garbage\n")
    with pytest.raises(tf.FormatError, match="at byte 0: line 1"):
        tf.convert_trace(tmp_path / "t", tmp_path / "a", "lackey")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_pipe_is_read_like_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    data = (GOLDEN / "lackey.txt").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    assert len(read(tmp_path / "pipe")) == 202
    writer.join()


def test_progress_ends_at_the_size_of_the_file(tmp_path):
    seen = []
    tf.convert_trace(GOLDEN / "lackey.txt", tmp_path / "a", progress=lambda *step: seen.append(step))
    size = (GOLDEN / "lackey.txt").stat().st_size
    assert seen[-1] == ("reading", size, size)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40), st.data())
def test_what_lackey_writes_of_accesses_is_what_is_read(tmp_path_factory, gvas, data):
    kinds = data.draw(st.lists(st.sampled_from("ILSM"), min_size=len(gvas), max_size=len(gvas)))
    text = "".join(f"I  {gva:08x},1\n" if kind == "I" else f" {kind} {gva:08x},1\n" for gva, kind in zip(gvas, kinds))  # noqa: B905
    meaning = {"I": (FETCH,), "L": (LOAD,), "S": (STORE,), "M": (LOAD, STORE)}
    expected = [(gva, kind) for gva, letter in zip(gvas, kinds, strict=True) for kind in meaning[letter]]
    folder = tmp_path_factory.mktemp("t")
    assert [row[:2] for row in read_text(folder, text)] == expected
    assert np.diff([row[4] for row in read(folder / "t")]).tolist().count(-1) == 0
