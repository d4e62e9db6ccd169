"""Layouts of other tools' files: any fields, commands, classes, separators; and what is like a format and is none."""

import gzip
import io
import itertools
import lzma
import struct
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import twofold as tf
from twofold.trace import open_reader

GOLDEN = Path(__file__).parents[1] / "golden" / "traces"
LOAD, STORE, FETCH = 0, 1, 2
GVA, IP = 0x7F0000001000, 0x401136
SOURCE = f"{0x68100144:16x} |OP STORE|LVL L1 hit|SNP None|TLB L1 or L2 hit|LCK No|BLK  N/A  "


def read(tmp_path, text, name=None):
    """Return (format, [(gva, kind, vcpu)], notes) of a file with this text."""
    path = tmp_path / "t"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    reader, rows = open_reader(path, name), []
    for block in reader.blocks():
        rows += zip(block.gvas.tolist(), block.kinds.tolist(), block.vcpus.tolist(), strict=True)
    return reader.name, rows, reader.notes()


def refusal(tmp_path, text, name=None):
    """Return why a file with this text is refused."""
    with pytest.raises(tf.FormatError) as caught:
        read(tmp_path, text, name)
    assert "\n" not in str(caught.value)
    return caught.value.problem


# -- perf script --------------------------------------------------------------------------------------------------


def perf_sample(fields, comm="worker", event="page-faults", gva=GVA, ip=IP):
    """Return a sample with these fields as perf script prints it, after tools/perf/builtin-script.c, process_event."""
    written = {
        "comm": f"{comm:>16} ",
        "tid": f"{4711:7d} ",
        "cpu": f"[{3:03d}] ",
        "misc": "U        ",
        "time": f"{'100.000001':>12}: ",
        "period": f"{250000:10d} ",
        "event": f"{event}: ",
        "addr": f"{gva:16x}",
        "addr sym": " [unknown] (//anon)",
        "data_src": SOURCE,
        "weight": f"{168:16d}",
        "ip": f" {ip:16x}",
        "sym": " add+0x6 (/bin/x)",
        "phys_addr": f"{0x12340000:16x}",
        "data_page_size": " 4K",
    }
    return "".join(text for name, text in written.items() if name in fields) + "\n"


USUAL = ("comm", "tid", "cpu", "time", "period", "event", "addr", "ip", "sym")
COMMANDS = [
    "tmux: server",
    "a b 12/34 [001]",
    "[001] 1.000000:",
    "x: 7f00 y",
    "7f0000002000",
    "loads: 1234567",
    "#x",
    "",
    "a)",
]


@pytest.mark.parametrize("comm", [*COMMANDS, "a b 12/34 [001] 1.0:"])
def test_a_command_may_hold_anything(tmp_path, comm):
    for fields in (USUAL, tuple(set(USUAL) - {"cpu"}), tuple(set(USUAL) - {"cpu", "ip", "sym"})):
        name, rows, _ = read(tmp_path, perf_sample(fields, comm))
        assert (name, rows) == ("perf-script", [(GVA, LOAD, 3 if "cpu" in fields else 0)])


OPTIONAL = ("comm", "tid", "cpu", "misc", "time", "period", "event", "data_src", "weight", "ip", "sym", "phys_addr")


@given(
    st.sets(st.sampled_from(OPTIONAL)),
    st.one_of(st.sampled_from(COMMANDS), st.text("ab1:/[]. -", max_size=15)),
    st.sampled_from([0x1000, 0x401000, GVA, 0xFFFF888100000000]),
)
@example({"event"}, "worker", GVA)
@example(set(), "worker", GVA)
@example({"time", "period"}, "worker", GVA)
def test_whatever_fields_are_printed_beside_an_address_it_is_found(tmp_path_factory, fields, comm, gva):
    """perf prints fields in its own order; a period says nothing without the name of what it is of."""
    assume("period" not in fields or fields & {"event", "time"})
    assume(fields & {"event", "time"} or comm in COMMANDS[:4])  # without them, a command could be an address itself
    assume("misc" not in fields or {"cpu", "time"} <= fields)
    assume("sym" not in fields or "ip" in fields)
    line = perf_sample({*fields, "addr"}, comm, gva=gva)
    _, rows, _ = read(tmp_path_factory.getbasetemp(), line, "perf-script")
    kind = STORE if "data_src" in fields else LOAD
    assert [row[:2] for row in rows] == [(gva, kind)]
    assert "cpu" not in fields or not fields & {"time", "event"} or rows[0][2] == 3


@given(
    st.sets(st.sampled_from(OPTIONAL)),
    st.sampled_from(COMMANDS),
    st.sampled_from([IP, 0xFFFFFFFF81000000]),
)
@example({*USUAL} - {"addr"}, "calc", IP)
@example({"event", "weight", "ip", "sym"}, "calc", IP)
def test_samples_without_an_address_give_none(tmp_path_factory, fields, comm, ip):
    assume("phys_addr" not in fields or "ip" in fields)  # alone it stands where an address would
    assume({"time", "event"} & fields)
    assume("sym" not in fields or "ip" in fields)
    line = perf_sample(fields - {"addr"}, comm, ip=ip)
    problem = refusal(tmp_path_factory.getbasetemp(), line, "perf-script")
    assert "has no sample with an address" in problem
    assert "perf record -d" in problem
    assert "perf script -F +addr" in problem


@pytest.mark.parametrize("fields", [USUAL, (*USUAL, "data_src", "weight"), tuple(set(USUAL) - {"time", "cpu"})])
def test_a_file_without_an_address_is_refused_with_the_option_that_gives_one(tmp_path, fields):
    fields = set(fields) - {"addr"}
    assert "perf record -d" in refusal(tmp_path, perf_sample(fields))
    name, rows, notes = read(tmp_path, perf_sample(fields) * 3 + perf_sample({*fields, "addr"}))
    assert (name, [row[0] for row in rows]) == ("perf-script", [GVA])
    assert "Lines without an address that are left out: 3." in notes


def test_an_address_of_0_is_none(tmp_path):
    """perf prints 0 for a sample that has none."""
    text = perf_sample(USUAL, gva=0)
    assert "has no sample with an address" in refusal(tmp_path, text)
    assert [row[0] for row in read(tmp_path, text + perf_sample(USUAL))[1]] == [GVA]


def test_lines_of_source_code_are_left_out(tmp_path):
    text = (perf_sample(USUAL) + "  main.c:12\n|12        add(face, 401136);\n          401136 main+0x6 (/bin/x)\n") * 3
    name, rows, notes = read(tmp_path, text)
    assert (name, rows) == ("perf-script", [(GVA, LOAD, 3)] * 3)
    assert "Lines without an address that are left out: 9." in notes


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_call_chains_are_no_samples(tmp_path, end):
    chain = "\t          401136 main+0x6 (/bin/x)\n\t    7f0000404040 start (/x)\n\n"
    text = "# header\n" + (perf_sample(set(USUAL) - {"ip", "sym"}) + chain) * 2
    _, rows, notes = read(tmp_path, text.replace("\n", end))
    assert (rows, any("left out" in note for note in notes)) == ([(GVA, LOAD, 3)] * 2, False)


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("calc 4711 [002] 100.000001: 1 mem-stores: 7f0000001000 401136 add (/bin/calc)\n", [(GVA, STORE, 2)]),
        (
            "calc 4711 [002] 100.000001: 1 x: 7f0000001000 68100144 |OP STORE|LVL L1 401136 add (/x)\n",
            [(GVA, STORE, 2)],
        ),
        ("calc 4711 [002] 100.000001: 1 cycles:u: 7f0000001000 a (/x) 401136 add (/x)\n", [(GVA, LOAD, 2)]),
        ("calc 4711 [002] 100.000001: 1 cycles:u: 401136 add (/bin/calc)\n", []),
        ("calc 4711 [002] 100.000001: 1 cycles:k: ffffffff81000000 add ([kernel.kallsyms])\n", []),
        ("calc 4711 [002] 100.000001: 1 cycles:u: 68100144 |OP STORE|LVL L1 401136 add (/x)\n", []),
    ],
)
def test_without_its_columns_a_line_gives_what_can_only_be_an_address(tmp_path, line, rows):
    assert read(tmp_path, line + perf_sample(USUAL), "perf-script")[1][:-1] == rows


@pytest.mark.parametrize(
    "text",
    [
        "0000000000401000 T main\n0000000000401010 T add\n",
        "MemTotal:       24684096 kB\nCached:          1273828 kB\nActive:           571900 kB\n",
        "    7f0000001000\n    7f0000002000\n",
    ],
)
def test_a_table_of_numbers_is_taken_for_samples_only_where_that_is_said(tmp_path, text):
    assert refusal(tmp_path, text).split(";")[0] in {
        "may be perf-script, as any table of numbers may",
        "is no trace that is known",
    }


@pytest.mark.parametrize("filler", [b"a", b"0", b"a:", b"[1] ", b"1.000000: ", b"x: 1 "])
def test_a_line_costs_little_more_than_its_length(tmp_path, filler):
    """Bytes by bytes, a line of 60 KiB would take half a minute."""
    long = filler * (60_000 // len(filler)) + b"\n"
    start = time.monotonic()
    assert read(tmp_path, long + perf_sample(USUAL).encode(), "perf-script")[1] == [(GVA, LOAD, 3)]
    assert time.monotonic() - start < 10


# -- perf mem -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", ":", "|", "\t", " ", ""])
@pytest.mark.parametrize("extra", [*itertools.product(("", "0x0000000012340000"), ("", "4K", "N/A"))], ids=str)
def test_perf_mem_may_have_physical_addresses_and_page_sizes(tmp_path, separator, extra):
    head = f"{4711:5d}{4712:6d} 0x{IP:016x} 0x016" if not separator else separator.join(("4711", "4712", hex(IP), "0x"))
    middle = [part for part in (f"{GVA:x}", *extra, "  168" if not separator else "168", "0x68100144") if part]
    text = "# PID, TID, IP, ADDR, PHYS ADDR, DATA PAGE SIZE, LOCAL WEIGHT, DSRC, SYMBOL\n"
    text += head + (separator or " ").join((*middle, "/bin/x:main")) + "\n"
    assert read(tmp_path, text)[:2] == ("perf-mem", [(GVA, STORE, 0)])


def test_a_raw_sample_without_an_address_is_none(tmp_path):
    text = "# PID, TID, IP, ADDR, LOCAL WEIGHT, DSRC, SYMBOL\n1,2,0x40,0x0,12,0x68100142,/x:f\n"
    assert "perf mem record" in refusal(tmp_path, text)
    name, rows, notes = read(tmp_path, text + "1,2,0x40,0x7f0000001000,12,0x68100142,/x:f\n")
    assert (name, rows) == ("perf-mem", [(GVA, LOAD, 0)])
    assert "Lines without an address that are left out: 1." in notes


# -- gem5 ---------------------------------------------------------------------------------------------------------


def gem5_line(
    class_="MemRead", flags="IsInteger|IsLoad", core="system.cpu", result=" D=0x0000000000000001 A=0x7f0000001000"
):
    """Return a line as gem5's Exec flag prints it; after src/cpu/exetrace.cc."""
    opclass = f"{class_} : " if class_ else ""
    return f"{1000:7d}: {core}: A0 T0 : 0x10116 @f+4    : ld a0, 0(sp)  : {opclass}{result}  flags=({flags})\n"


READING = [
    "MemRead",
    "FloatMemRead",
    "SimdUnitStrideLoad",
    "SimdStridedLoad",
    "SimdIndexedLoad",
    "SimdWholeRegisterLoad",
]
READING += ["SimdUnitStrideMaskLoad", "SimdUnitStrideFaultOnlyFirstLoad", "SimdUnitStrideSegmentedLoad"]


@pytest.mark.parametrize("class_", READING)
def test_the_class_says_what_an_access_is(tmp_path, class_):
    assert read(tmp_path, gem5_line(class_, "IsVector"))[1] == [(GVA, LOAD, 0)]
    writing = class_.replace("Read", "Write").replace("Load", "Store")
    assert read(tmp_path, gem5_line(writing, "IsVector|IsLoad"))[1] == [(GVA, STORE, 0)]


@pytest.mark.parametrize("class_", ["", "IntAlu", "No_OpClass"])
@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        ("IsInteger|IsLoad", [LOAD]),
        ("IsInteger|IsStore|IsMicroop", [STORE]),
        ("IsInteger|IsLoad|IsStore|IsAtomic", [LOAD, STORE]),
        ("IsStore|IsLoad", [LOAD, STORE]),
        ("IsAtomic", [LOAD, STORE]),
        ("IsMicroop", [LOAD]),
    ],
)
def test_where_the_class_does_not_say_it_the_flags_do(tmp_path, class_, flags, kinds):
    _, rows, notes = read(tmp_path, gem5_line(class_, flags))
    assert rows == [(GVA, kind, 0) for kind in kinds]
    assert any("neither class nor flags" in note for note in notes) == (flags == "IsMicroop")


def test_symbols_and_results_are_no_class(tmp_path):
    named = gem5_line("MemWrite", "IsStore").replace("@f+4   ", "@MemRead")
    text = (
        named
        + gem5_line("MemWrite", "IsStore", result="Predicated False")
        + gem5_line("IntAlu", "IsInteger", result=" D=0x1")
    )
    assert read(tmp_path, text)[1] == [(GVA, STORE, 0)]


@pytest.mark.parametrize(
    ("core", "vcpu"),
    [
        ("system.cpu", 0),
        ("system.cpu3", 3),
        ("system.cpu12", 12),
        ("system.cpu07", 7),
        ("system.switch_cpus2", 2),
        ("board.processor.cores3.core", 3),
        ("board.processor.start15.core", 15),
        ("board.processor.switch0.core", 0),
        ("system.cpu_cluster1.cpus2", 2),
        ("system2.cpu", 2),
    ],
)
def test_the_number_of_a_core_is_the_last_one_of_its_name(tmp_path, core, vcpu):
    assert read(tmp_path, gem5_line(core=core))[1] == [(GVA, LOAD, vcpu)]
    assert read(tmp_path, gem5_line(core=f"ExecEnable: {core}"))[1] == [(GVA, LOAD, vcpu)]
    assert read(tmp_path, gem5_line(core=core).partition(": ")[2])[1] == [(GVA, LOAD, vcpu)], "without ticks"


def test_what_gem5_and_its_program_print_is_skipped_and_counted(tmp_path):
    before = "gem5 Simulator System.  https://www.gem5.org\ncommand line: gem5.opt --debug-flags=Exec simple.py\n\n"
    between = "warn: ignoring syscall mprotect(...)\ninfo: Increasing stack size by one page.\nHello world! "
    after = "Exiting @ tick 9 because exiting with last active thread context\n--- Begin Simulation Statistics ---\n"
    after += "simSeconds    0.000057    # Number of seconds simulated (Second)\n"
    text = before + gem5_line() + between + gem5_line("MemWrite", "IsStore") + after
    name, rows, notes = read(tmp_path, text)
    assert (name, rows) == ("gem5-exec", [(GVA, LOAD, 0), (GVA, STORE, 0)])
    assert "Lines of gem5 itself that are left out: 7." in notes
    assert "--debug-flags=Exec" in refusal(tmp_path, before, "gem5-exec")
    assert "no trace that is known" in refusal(tmp_path, before)


# -- lackey and drmemtrace ----------------------------------------------------------------------------------------


def test_lackey_may_have_one_blank(tmp_path):
    text = "SB 00401000\nI 401000,3\nL 7f0000001000,8\nS 7f0000001000,8\nM 7f0000001000,4\n"
    rows = [(0x401000, FETCH, 0), (GVA, LOAD, 0), (GVA, STORE, 0), (GVA, LOAD, 0), (GVA, STORE, 0)]
    assert read(tmp_path, text)[:2] == ("lackey", rows)


def test_older_views_of_drmemtrace_number_their_threads(tmp_path):
    _, rows, notes = read(tmp_path, (GOLDEN / "drmemtrace_2022.txt").read_bytes())
    assert rows == [(GVA, FETCH, 0), (0x7F0000100000, LOAD, 0), (0x7F0000200000, STORE, 1)]
    assert notes == ("vCPU 0 is thread 4711, 1 is thread 4712.",)


# -- what is like a format ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", ["lackey.txt", "drmemtrace.txt", "execlog.txt", "perf_mem.txt", "gem5_packets.txt"])
@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_foreign_line_is_named_with_the_format_that_the_others_are_of(tmp_path, sample, line):
    lines = (GOLDEN / sample).read_text().splitlines(keepends=True)
    lines.insert(line - 1, "hello\n")
    name = {"perf_mem.txt": "perf-mem", "gem5_packets.txt": "gem5-packets"}.get(sample, sample.removesuffix(".txt"))
    problem = refusal(tmp_path, "".join(lines))
    assert problem.startswith(f"is like {name} up to line {line}, which is no ")
    assert "'hello'" in problem


def test_where_a_format_is_named_all_before_a_foreign_line_is_read(tmp_path):
    (tmp_path / "t").write_text(" L 7f0000001000,8\nhello\n S 7f0000001000,8\n")
    assert tf.convert_trace(tmp_path / "t", tmp_path / "a", "lackey").accesses == 1


# -- ChampSim -----------------------------------------------------------------------------------------------------

RECORDS = {"champsim": "<QBB6B2Q4Q", "champsim-load-type": "<QBB6B2Q4QB7x", "champsim-cloudsuite": "<QBB8B6x4Q4Q2B6x"}


def records(name, count, *, accesses=True):
    """Return records of a layout, and what they stand for."""
    raw, rows = b"", []
    stores, registers = (4, 8) if name == "champsim-cloudsuite" else (2, 6)
    for i in range(count):
        load, store = (GVA + 4096 * i) * (i % 2 == 0) * accesses, (GVA - 8 * i) * (i % 3 == 0) * accesses
        fields = [IP + 4 * i, i % 4 == 3, i % 8 == 3, *range(registers), *[0] * (stores - 1), store, 0, load, 0, 0]
        raw += struct.pack(RECORDS[name], *fields, *{"champsim": (), "champsim-load-type": (i % 3,)}.get(name, (1, 0)))
        rows += [(IP + 4 * i, FETCH, 0)] + [(load, LOAD, 0)] * bool(load) + [(store, STORE, 0)] * bool(store)
    return raw, rows


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 24, 200])
@pytest.mark.parametrize("accesses", [True, False])
@pytest.mark.parametrize("name", RECORDS)
def test_the_layout_of_records_is_seen_by_what_they_hold(tmp_path, name, accesses, count):
    """24 records of 96 bytes are 36 of 64, and 32 of 72."""
    raw, rows = records(name, count, accesses=accesses)
    assert read(tmp_path, raw)[:2] == (name, rows)
    for other in RECORDS:
        if other == name:
            assert read(tmp_path, lzma.compress(raw), other)[:2] == (name, rows)
        elif count > 1:
            problem = refusal(tmp_path, raw, other)
            assert problem.startswith(f"is no {other} trace: its records are like those of ")
            assert problem.endswith(name)


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("cut", [1, 33])
def test_cut_records_are_still_of_their_layout(tmp_path, name, cut):
    raw, _ = records(name, 24)
    bytes_ = struct.calcsize(RECORDS[name])
    assert refusal(tmp_path, raw[:-cut]) == f"ends in a record of {bytes_} bytes, {cut} before its end"
    assert refusal(tmp_path, gzip.compress(raw[:-cut])).startswith(
        f"ends in a record of {bytes_} bytes of the unpacked data"
    )


@pytest.mark.parametrize(
    "raw", [b"", bytes(6400), b"hello, this is text\n" * 64, bytes(range(256)) * 9], ids=["none", "0", "text", "bytes"]
)
@pytest.mark.parametrize("name", RECORDS)
def test_what_is_no_record_is_refused_where_it_is_named_one(tmp_path, name, raw):
    assert refusal(tmp_path, raw, name).startswith(f"is no {name} trace")


@pytest.mark.parametrize("name", [None, *RECORDS, "lackey", "perf-script", "gem5-exec", "csv"])
def test_a_tar_is_refused_by_name(tmp_path, name):
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", format=form) as tar:
            tar.add(GOLDEN / "instructions.champsim", "instructions.champsim")
        for pack in (bytes, gzip.compress, lzma.compress):
            assert refusal(tmp_path, pack(archive.getvalue()), name).startswith("is a tar archive")
