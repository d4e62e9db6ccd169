"""The subcommands: their examples, their exit codes, what they print where, and what they leave behind."""

import csv
import io
import json
import os
import pty
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from command_tree import NAMES

from twofold.domain import DomainOptions, Machine
from twofold.freemaps import FreeMap
from twofold.machine import journal
from twofold.trace import WORKLOADS

GOLDEN = Path(__file__).parents[1] / "golden"
HOST = ("--size", "1GiB", "--guest", "64MiB")
QUICK = ("compare", *HOST, "--workload", "stream", "--guest-pages", "4K", "--accesses", "500", "--repeat", "1")
THIS_HOST = os.access("/proc/buddyinfo", os.R_OK) and os.access("/proc/kpageflags", os.R_OK)
NEEDS_THIS_HOST = pytest.mark.skipif(not THIS_HOST, reason="needs /proc/kpageflags and /proc/buddyinfo (root)")


# -- help -------------------------------------------------------------------------------------------------------


def test_help_lists_every_command(twofold):
    done = twofold("--help")
    assert done.code == 0
    assert all(f"\n  {name.split()[0]} " in done.out for name in NAMES)


@pytest.mark.parametrize("argv", [[], ["host"], ["trace"]])
def test_no_arguments_at_all_is_a_matter_of_help(twofold, argv):
    done = twofold(*argv)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: twofold")


# -- curve ------------------------------------------------------------------------------------------------------


@pytest.mark.medium
def test_curve_prints_each_structure_as_table_json_and_csv(twofold):
    argv = ("curve", "stream", "--footprint", "1MiB", "--accesses", "32768", "--sets", "1,16", "--ways", "3")
    table = twofold(*argv)
    assert table.code == 0
    assert [row.split() for row in table.out.splitlines()[1:] if row.strip()][-1] == [
        "4K",
        "16",
        "3",
        "48",
        "256",
        "7.812",
    ]
    document = json.loads(twofold(*argv, "--json").out)
    assert document["version"] == 1
    assert [(each["sets"], each["misses"]) for each in document["curves"]] == [
        (1, [32768, 256, 256, 256]),
        (16, [32768, 256, 256, 256]),
    ]
    rows = list(csv.DictReader(io.StringIO(twofold(*argv, "--csv").out)))
    assert [(row["sets"], row["entries"], row["misses"]) for row in rows][-1] == ("16", "48", "256")


@pytest.mark.medium
def test_curve_writes_its_page_and_says_where(twofold):
    done = twofold("curve", "kv", "--footprint", "1MiB", "--accesses", "1000", "--ways", "8", "--report", "curves.html")
    assert (done.code, done.line) == (0, "report: curves.html")
    assert "kv over 1MiB" in (twofold.folder / "curves.html").read_text()


@pytest.mark.medium
@pytest.mark.parametrize(
    ("argv", "code", "problem"),
    [
        (("nope",), 3, "nope: is no file and no workload; known are gups, chase"),
        (("gups", "--sets", "1,x"), 2, "whole numbers"),
        (("gups", "--sets", "0"), 2, "'0' is no whole number from 1"),
        (("gups", "--page-sizes", "3M"), 3, "is no page size"),
        (("gups", "--footprint", "3MiB"), 3, "--footprint: size '3MiB' is no footprint"),
        (("gups", "--skew", "1"), 2, "--skew has no effect on gups"),
        (("kv", "--skew", "3"), 2, "'3' is no number from 0 to 2"),
        (("kv", "--report", "."), 3, "not a file to write"),
    ],
)
def test_curve_says_in_one_line_what_is_wrong(twofold, argv, code, problem):
    done = twofold("curve", *argv, "--accesses", "10")
    assert done.code == code
    assert problem in done.line
    assert twofold.files() == []


# -- audit ------------------------------------------------------------------------------------------------------


def raw_pages(folder, entry: int) -> Path:
    """Write a root that leads to a table with one leaf."""
    pages = np.zeros((4, 512), np.uint64)
    pages[:3, 0] = [mfn << 12 | 0x67 for mfn in (2, 3, 4)]
    pages[3, 5] = entry
    levels, mfns = np.array([4, 3, 2, 1], np.uint8), np.arange(1, 5, dtype=np.uint64)
    np.savez(folder / "npt_pages.npz", mfn=mfns, level=levels, pages=pages.view(np.uint8))
    return folder


def test_an_audit_without_findings_ends_with_0_and_one_with_findings_with_1(twofold):
    assert twofold("audit", raw_pages(twofold.folder, 0x1000067)).code == 0
    done = twofold("audit", raw_pages(twofold.folder, 0x3067))
    assert done.code == 1
    assert "gfn 0x5, level 0: maps page tables (mfn 0x3, entry 0x3067)" in done.out
    assert "not checked: there is no M2P" in done.out
    as_json = twofold("audit", twofold.folder, "--json")
    assert as_json.code == 1
    (tables,) = json.loads(as_json.out)["tables"]
    assert (tables["table_format"], tables["report"]["found"]) == ("npt", 1)
    assert "maps page tables" in tables["report"]["findings"][0]["says"]


@pytest.mark.medium
def test_an_audit_names_the_domain_that_it_is_asked_for(twofold):
    assert twofold("build", *HOST, "--design", "toolstack", "--save", "m.npz").code == 0
    assert twofold("audit", "m.npz", "--domain", "1", "-q").code == 0
    done = twofold("audit", "m.npz", "--domain", "web")
    assert (done.code, done.out) == (3, "")
    assert "domain 'web'" in done.line
    assert twofold("build", *HOST, "--save", "m.npz").code == 2, "three designs, one file"


@pytest.mark.medium
def test_an_audit_begins_where_it_is_told_and_uses_the_reader_that_it_is_told(twofold):
    assert twofold("build", *HOST, "--design", "toolstack", "--save", "m").code == 0
    (whole,) = json.loads(twofold("audit", "m", "--json").out)["tables"]
    root = hex(whole["root"])
    (tables,) = json.loads(twofold("audit", "m", "--root", root, "--table-format", "npt", "--json").out)["tables"]
    assert (tables["root"], tables["name"]) == (whole["root"], "")
    assert tables["report"]["leaves"] == whole["report"]["leaves"]
    assert "name a format" in twofold("audit", "m", "--root", root).line
    assert twofold("audit", "m", "--root", "top").code == 2
    assert "is no .npz file" in twofold("audit", "m", "--reader", "raw-pages").line
    assert "dump reader 'elf'" in twofold("audit", "m", "--reader", "elf").line


def test_an_audit_says_whose_tables_it_takes_them_for_and_how_wide_addresses_are(twofold):
    path = GOLDEN / "tables" / "kvm_ept_healthy.npz"
    done = twofold("audit", path, "--table-format", "ept")
    assert done.code == 0
    assert "assumed: dialect kvm: KVM sets bit 11 of entries that point to tables, of 3 of the 3 looked at" in " ".join(
        done.out.split()
    )
    assert "assumed: 52 address bits: the most that ept entries hold" in done.out
    said = twofold("audit", path, "--table-format", "ept", "--dialect", "kvm", "--address-bits", "46")
    assert said.code == 0
    assert "assumed" not in said.out
    (tables,) = json.loads(twofold("audit", path, "--table-format", "ept", "--json").out)["tables"]
    assert (tables["dialect"], tables["address_bits"], len(tables["assumed"])) == ("kvm", 52, 2)


def test_an_audit_takes_the_width_of_addresses_and_the_bits_of_encryption(twofold):
    path = GOLDEN / "tables" / "npt_mmio_reserved_43.npz"
    done = twofold("audit", path, "--dialect", "bare", "--address-bits", "43")
    assert done.code == 1
    assert "level 0: bits 51:43 (0xff80000000000) set above 43 address bits" in " ".join(done.out.split())
    assert twofold("audit", path, "--dialect", "kvm", "--address-bits", "43").code == 0
    mask = ("--encryption-mask", hex((1 << 52) - (1 << 43)))
    assert twofold("audit", path, "--dialect", "bare", "--address-bits", "43", *mask).code == 0


@pytest.mark.parametrize(
    ("argv", "code", "problem"),
    [
        (("--address-bits", "60"), 2, "'--address-bits': '60' is no whole number from 32 to 52"),
        (("--address-bits", "wide"), 2, "--address-bits"),
        (("--address-bits", "-1"), 2, "'-1' is no whole number from 32 to 52"),
        (("--encryption-mask", "0x800"), 2, "--encryption-mask 0x800 overlaps what npt needs"),
        (("--encryption-mask", "C"), 2, "--encryption-mask"),
        (("--encryption-mask", "-1"), 2, "'--encryption-mask': '-1' is no mask"),
        (("--dialect", "hyper-v"), 3, "unknown dialect 'hyper-v'; known are xen, kvm, bare"),
        (("--table-format", "vtd"), 3, "unknown table format 'vtd'"),
        (("--table-format", "npt-5"), 3, "has 4 levels, and a npt-5 table has 5"),
    ],
)
def test_how_tables_cannot_be_read_is_said_in_one_line_with_the_option(twofold, argv, code, problem):
    done = twofold("audit", GOLDEN / "tables" / "npt_mmio_reserved_43.npz", *argv)
    assert (done.code, done.out) == (code, "")
    assert problem in done.line


def test_an_audit_takes_a_plain_array_of_tables_when_it_is_told_where_they_begin(twofold):
    words = np.zeros((5, 512), np.uint64)
    words[1:4, 0] = [mfn << 12 | 0x67 for mfn in (2, 3, 4)]
    words[4, 5] = 0x1000067
    np.save(twofold.folder / "t.npy", words)
    assert twofold("audit", "t.npy", "--root", "1", "--table-format", "npt").code == 0
    assert "name the root" in twofold("audit", "t.npy").line
    assert "name a format" in twofold("audit", "t.npy", "--root", "1").line


@pytest.mark.medium
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip at all"])
def test_what_is_no_table_file_is_refused_in_one_line(twofold, content):
    (twofold.folder / "t.npz").write_bytes(content)
    done = twofold("audit", "t.npz")
    assert (done.code, done.out) == (3, "")
    assert "t.npz: is no .npz file" in done.line


# -- replay -----------------------------------------------------------------------------------------------------


def record(path) -> str:
    """Write the journal of a small machine; return its digest."""
    with Machine("64MiB", journal=path) as machine:
        domain = machine.create_domain("8MiB", "web", DomainOptions(layout="flat"))
        domain.memory.populate_physmap(range(0, 2048, 512), 9)
        domain.p2m.merge_all()
        return machine.digest()


@pytest.mark.medium
def test_a_replay_shows_the_machine_that_it_leads_to(twofold):
    digest = record(twofold.folder / "m.journal")
    done = twofold("replay", "m.journal")
    assert (done.code, done.err) == (0, "")
    assert "operations: 4\n" in done.out
    assert "leaves: 4K: 0, 2M: 4, 1G: 0" in done.out
    assert f"digest: {digest}" in done.out
    document = json.loads(twofold("replay", "m.journal", "--json", "-q").out)
    assert (document["version"], document["digest"], document["damage"]) == (1, digest, "")
    assert document["domains"] == [{"domid": 1, "name": "web", "owned_frames": 2048}]


@pytest.mark.medium
def test_a_replay_of_a_run_says_that_no_digest_was_compared(twofold):
    with Machine("64MiB", journal=twofold.folder / "m.journal") as machine:
        machine.create_domain("8MiB", options=DomainOptions(layout="flat")).begin_run("unicorn")
    done = twofold("replay", "m.journal")
    assert (done.code, done.err) == (0, "")
    assert "programs run: 1; what they stored is in no journal" in done.out
    assert json.loads(twofold("replay", "m.journal", "--json", "-q").out)["runs"] == 1


@pytest.mark.medium
def test_a_damaged_journal_is_replayed_up_to_the_damage_which_is_told_with_its_offset(twofold):
    path = twofold.folder / "m.journal"
    record(path)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    done = twofold("replay", "m.journal")
    assert done.code == 3
    assert "operations: 3; the journal has no end" in done.out
    assert "m.journal: is damaged at offset 0x" in done.line
    assert "after 3 whole operations" in done.line
    assert "after 3 whole operations" in json.loads(twofold("replay", "m.journal", "--json").out)["damage"]


def test_an_answer_that_differs_ends_a_replay_with_1(twofold, monkeypatch):
    path = twofold.folder / "m.journal"
    monkeypatch.setattr(journal, "digest_of", lambda answer: 1)
    record(path)
    done = twofold("replay", "m.journal")
    assert (done.code, done.out) == (1, "")
    assert "m.journal: operation 1 (offset 0x" in done.line
    assert "it answered something else" in done.line


def test_a_journal_of_too_large_a_machine_is_refused(twofold):
    record(twofold.folder / "m.journal")
    done = twofold("replay", "m.journal", "--max-machine", "32MiB")
    assert (done.code, done.out) == (3, "")
    assert "a machine of 64MiB, more than the 32MiB that are allowed" in done.line


# -- output -----------------------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize(
    "argv",
    [
        QUICK,
        ("build", *HOST),
        ("run", "gups", *HOST, "--steps", "50"),
        ("walk", *HOST, "--footprint", "1MiB"),
    ],
    ids=lambda argv: argv[0],
)
def test_json_on_standard_output_is_nothing_but_json(twofold, argv):
    done = twofold(*argv, "--json")
    assert done.code == 0
    assert isinstance(json.loads(done.out)["version"], int)
    assert done.err == ""
    assert twofold.files() == []


def test_csv_on_standard_output_is_nothing_but_csv(twofold):
    done = twofold(*QUICK, "--csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["design"] for row in rows] == ["small", "toolstack", "opportunistic"]
    assert rows[0]["speedup"] == "1.0"


@pytest.mark.medium
def test_a_second_run_prints_the_same_bytes(twofold):
    for form in ("--json", "--csv"):
        assert twofold(*QUICK, form, "--seed", "3").out == twofold(*QUICK, form, "--seed", "3").out


@pytest.mark.medium
@pytest.mark.parametrize("form", ["--json", "--csv", None])
def test_output_to_a_file_is_what_would_have_been_printed(twofold, form):
    forms = [form] if form else []
    printed = twofold(*QUICK, *forms)
    done = twofold(*QUICK, *forms, "-o", "r.txt")
    assert (done.code, done.out) == (0, "")
    assert (twofold.folder / "r.txt").read_text() == printed.out
    assert twofold.files() == ["r.txt"]


@pytest.mark.medium
@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "xterm-256color"}], ids=["NO_COLOR", "TERM"])
@pytest.mark.parametrize("argv", [QUICK, ("walk", *HOST), ("cpus", "zen3"), ("host", "show", "fresh")])
def test_piped_output_has_no_escape_codes(twofold, argv, env):
    done = twofold(*argv, **env)
    assert done.code == 0
    assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_colours_unless_told_not_to(twofold, no_color):
    ours, theirs = pty.openpty()
    twofold.start("walk", *HOST, stdout=os.ttyname(theirs), TERM="xterm-256color", NO_COLOR=no_color)
    assert twofold.finish().code == 0
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:  # Linux ends a terminal that nobody holds any more so
        pass
    finally:
        os.close(ours)
    assert b"P2M" in seen
    assert (b"\x1b[" in seen) == (not no_color)


@pytest.mark.medium
def test_a_table_shares_rows_and_gives_each_reason_once(twofold):
    done = twofold(*QUICK, "--repeat", "2", "--guest-pages", "2M,1G")
    assert done.code == 0
    first, *lines = done.out.splitlines()
    assert first == "toolstack and opportunistic build the same tables: who asks makes no difference."
    assert [line.split()[:3] for line in lines if line.startswith(("2M ", "1G "))] == [
        ["2M", "stream", "small"],
        ["2M", "stream", "toolstack,"],
        ["1G", "guest", "pages:"],
    ]
    assert "1G guest pages: not possible, a 1G page is larger than the area of 32MiB" in lines
    assert lines[-1] == "18 assumptions: --assumptions; every row: --all; pictures: --report page.html"


@pytest.mark.medium
def test_every_row_and_every_assumption_are_shown_when_asked_for(twofold):
    done = twofold(*QUICK, "--guest-pages", "2M,1G", "--all", "--assumptions", "--report", "page.html", COLUMNS="200")
    rows = [line for line in done.out.splitlines() if " stream " in line and line[:2] in {"2M", "1G"}]
    assert [row.split()[2] for row in rows] == ["small", "toolstack", "opportunistic"] * 2
    assert all(row.split()[-1] == "n/a" for row in rows[3:])
    assert "assumptions:\n- Each cell counts 500 accesses" in done.out
    assert "host: " in done.out
    assert "--all" not in done.out
    assert "--report" not in done.out
    assert "toolstack and opportunistic build the same tables" in (twofold.folder / "page.html").read_text()


@pytest.mark.medium
@pytest.mark.parametrize("argv", [QUICK, (*QUICK, "--all"), ("walk", *HOST), ("cpus", "zen3"), ("build", *HOST)])
def test_columns_limit_a_pipe_and_without_them_nothing_does(twofold, argv):
    narrow, wide, free = (twofold(*argv, COLUMNS=columns).out for columns in ("80", "200", ""))
    assert max(map(len, narrow.splitlines())) <= 80
    assert max(map(len, wide.splitlines())) <= 200
    numbers = [set(re.findall(r"\S*\d\S*", text)) for text in (narrow, free)]
    assert numbers[0] <= numbers[1], "a number was cut"
    assert len(free.splitlines()) <= len(wide.splitlines()) <= len(narrow.splitlines())


def test_cpus_are_listed_and_shown_with_their_sources(twofold):
    assert "zen3" in twofold("cpus").out
    assert "confidence" in twofold("cpus", "zen3").out


def test_a_walk_says_how_many_reads_it_took(twofold):
    assert "24 table reads" in twofold("walk", "+4097", *HOST, "--design", "small").out
    assert "is not mapped" in twofold("walk", "0xdead000", *HOST).out


@pytest.mark.medium
def test_options_win_over_the_scenario_file(twofold):
    (twofold.folder / "s.toml").write_text(
        'accesses = 700\nworkloads = ["chase"]\nguest_pages = ["4K"]\nrepeat = 1\n[host]\nsize = "1GiB"\n'
        '[guest]\nmemory = "64MiB"\nlayout = "flat"\n'
    )
    done = twofold("compare", "--scenario", "s.toml", "--workload", "gups", "--guest", "32MiB", "--json")
    scenario = json.loads(done.out)["scenario"]
    assert (scenario["accesses"], scenario["workloads"]) == (700, ["gups"])
    assert (scenario["guest"]["memory"], scenario["guest"]["layout"]) == ("32MiB", "flat")
    done = twofold("compare", "--scenario", "s.toml", "--host", "fresh", "--json")
    assert json.loads(done.out)["host"]["source"] != "synthetic", done.err
    (twofold.folder / "s.toml").write_text(
        'guest_pages = ["4K"]\naccesses = 100\nrepeat = 1\n[host]\nsnapshot = "no"\n'
    )
    done = twofold("compare", "--scenario", "s.toml", *HOST, "--workload", "gups", "--json")
    assert json.loads(done.out)["host"]["source"] == "synthetic", done.err


# -- exit codes -------------------------------------------------------------------------------------------------


def elf_that_faults():
    """Return a program that loads from a gva which nothing maps."""
    tiny = runpy.run_path(str(Path(__file__).parents[1] / "guest" / "tiny_elf.py"))
    return tiny["code"](tiny["load_from"](0xDEAD0000))


def test_a_program_that_faults_exits_with_1_and_one_line(twofold):
    (twofold.folder / "bad.elf").write_bytes(elf_that_faults())
    done = twofold("run", "bad.elf", *HOST)
    assert done.code == 1
    assert done.line == "twofold: program bad.elf: it read gva 0xdead0000, which is not mapped (in the guest's tables)"
    done = twofold("run", "bad.elf", *HOST, "--json")
    assert json.loads(done.out)["exit_code"] == 1


def test_a_program_of_ones_own_runs(twofold):
    (twofold.folder / "mine.elf").write_bytes(WORKLOADS["stream"].program())
    one, other = (twofold("run", name, *HOST, "--steps", "99", "--json") for name in ("mine.elf", "stream"))
    assert one.code == 0
    assert one.out == other.out


USAGE = [
    ("compare", "--json", "--csv"),
    ("compare", "--accesses", "many"),
    ("compare", "--no-such-option"),
    ("compare", "extra"),
    ("run",),
    ("run", "gups", "--steps", "-1"),
    ("run", "gups", "--steps", "0"),
    ("run", "gups", "--seconds", "0"),
    ("run", "gups", "--seconds", "nan"),
    ("run", "gups", "--seconds", "inf"),
    ("run", "gups", "--steps", str(2**40 + 1)),
    ("compare", "--accesses", "-5"),
    ("compare", "--accesses", "0"),
    ("compare", "--accesses", str(2**40 + 1)),
    ("compare", "--accesses", "1_000"),
    ("compare", "--accesses", "+5"),
    ("compare", "--accesses", "1e6"),
    ("compare", "--warmup", "-1"),
    ("compare", "--seed", "-0"),
    ("compare", "--seed", "9" * 50),
    ("compare", "--repeat", "\u0663"),
    ("nonsense",),
    ("host", "nonsense"),
    ("host", "snapshot"),
    ("trace", "convert", "only-one"),
    ("trace", "capture"),
]


@pytest.mark.medium
@pytest.mark.parametrize("argv", USAGE, ids=" ".join)
def test_a_wrong_command_line_exits_with_2_and_one_line(twofold, argv):
    done = twofold(*argv)
    assert (done.code, done.out) == (2, "")
    assert done.line.startswith("twofold: ")
    assert "--help" in done.line


FAILURES = [
    # names
    (*QUICK, "--designs", "tall"),
    (*QUICK, "--designs", ""),
    (*QUICK, "--designs", "small,small"),
    (*QUICK, "--cpu", "z80"),
    (*QUICK, "--cpu", "missing.toml"),
    (*QUICK, "--cpu", "garbage.toml"),
    (*QUICK, "--workload", "spec"),
    (*QUICK, "--layout", "pv"),
    ("compare", "--host", "this", "--packing", "loose"),
    ("cpus", "z80"),
    ("cpus", ""),
    ("build", *HOST, "--design", "tall"),
    ("build", *HOST, "--fallback", "nowhere"),
    ("run", "nothing", *HOST),
    ("run", "", *HOST),
    ("walk", *HOST, "--access", "smell"),
    # sizes
    (*QUICK, "--guest", "12Q"),
    (*QUICK, "--guest", ""),
    (*QUICK, "--guest", "0"),
    (*QUICK, "--guest", "-1"),
    (*QUICK, "--guest", "5000"),
    (*QUICK, "--guest", "2GiB"),
    (*QUICK, "--guest", "4K"),
    (*QUICK, "--size", "0"),
    (*QUICK, "--size", "1QiB"),
    (*QUICK, "--size", "99999999T"),
    (*QUICK, "--page-sizes", "4M"),
    (*QUICK, "--page-sizes", "4K,4M"),
    (*QUICK, "--page-sizes", "2M"),
    (*QUICK, "--page-sizes", ""),
    (*QUICK, "--guest-pages", "4M"),
    (*QUICK, "--guest-pages", ""),
    (*QUICK, "--footprint", "3MiB"),
    (*QUICK, "--footprint", "0"),
    (*QUICK, "--footprint", "1K"),
    (*QUICK, "--exact", "0:1MiB:1G"),
    (*QUICK, "--exact", "0"),
    (*QUICK, "--exact", "0:2MiB:2M:more"),
    (*QUICK, "--exact", "32GiB:2MiB:2M"),
    ("walk", "", *HOST),
    ("walk", "12Q", *HOST),
    ("walk", "0x8000000000000000", *HOST),
    ("walk", "+0xffffffffffff", *HOST),
    # numbers
    (*QUICK, "--free", "120%"),
    (*QUICK, "--free", "nan"),
    (*QUICK, "--free", "lots"),
    (*QUICK, "--fragmentation", "2"),
    (*QUICK, "--fragmentation", "nan"),
    (*QUICK, "--fragmentation", "-0"),
    # files
    ("compare", "--host", "missing.twohost"),
    ("compare", "--host", "garbage.twohost"),
    ("compare", "--host", ""),
    ("compare", "--host", "."),
    ("host", "show", "garbage.twohost"),
    ("host", "snapshot", "missing/a.twohost"),
    ("compare", "--host", "fresh", "--size", "1GiB"),
    ("compare", "--scenario", "missing.toml"),
    ("compare", "--scenario", "."),
    ("compare", "--scenario", "garbage.toml"),
    ("compare", "--scenario", "wrong.toml"),
    ("compare", "--scenario", "/dev/zero"),
    ("run", "garbage.elf", *HOST),
    ("trace", "info", "garbage.elf"),
    ("trace", "info", "missing.twotrace"),
    ("trace", "info", "garbage.elf", "--from", "pin"),
    ("trace", "convert", "garbage.elf", "a.twotrace", "--from", "lackey"),
    ("trace", "convert", "/dev/zero", "a.twotrace", "--from", "csv"),
    ("trace", "convert", "/dev/zero", "missing/a.twotrace"),
    ("trace", "capture", "-o", "missing/a.twotrace", "--", "true"),
    ("trace", "capture", "--", "no-such-program"),
    ("trace", "convert", "garbage.elf", ""),
    ("curve", "garbage.elf"),
    ("curve", "/dev/zero", "--from", "csv"),
    ("simulate", "garbage.elf", *HOST),
    ("simulate", "missing.twotrace", *HOST),
    (*QUICK, "-o", "missing/r.json"),
    (*QUICK, "-o", ""),
    (*QUICK, "-o", "/"),
    (*QUICK, "-o", "garbage.toml/r.json"),
    (*QUICK, "--report", "missing/r.html"),
    (*QUICK, "--json", "-o", "."),
]


@pytest.fixture
def wrong_files(twofold):
    """Files that are not what they should be; return their names."""
    for name in ("garbage.toml", "garbage.twohost", "garbage.elf"):
        (twofold.folder / name).write_bytes(b"\x7fELF\x02\xff\xfe = garbage" * 30)
    (twofold.folder / "wrong.toml").write_text("[host]\nsise = '1GiB'\n")
    return twofold.files()


# Each is a process of its own: every second one is left to the slow set.
@pytest.mark.parametrize(
    "argv",
    [pytest.param(argv, marks=[pytest.mark.medium] * (index % 2)) for index, argv in enumerate(FAILURES)],
    ids=[" ".join(argv).replace(" ".join(QUICK), "compare ...") for argv in FAILURES],
)
def test_what_cannot_be_done_exits_with_3_and_one_line_and_leaves_nothing(twofold, wrong_files, argv):
    done = twofold(*argv)
    assert done.code == 3, done
    assert done.out == ""
    assert done.line.startswith("twofold: ")
    assert done.line.isprintable()
    assert len(done.line) < 500
    assert twofold.files() == wrong_files


def test_a_wrong_field_is_named(twofold, wrong_files):
    assert twofold("compare", "--scenario", "wrong.toml").line == (
        "twofold: wrong.toml: field host.sise: is unknown; did you mean 'size'? "
        "known are snapshot, size, free, fragmentation, packing, page_kib"
    )


@pytest.mark.parametrize(
    "argv", [(*QUICK, "-o"), (*QUICK, "--report"), ("host", "snapshot")], ids=["-o", "--report", "host"]
)
def test_a_pipe_is_not_replaced_by_a_file(twofold, argv):
    os.mkfifo(twofold.folder / "pipe")
    done = twofold(*argv, "pipe")
    assert (done.code, done.line) == (3, "twofold: pipe: is no regular file; it is left alone")
    assert (twofold.folder / "pipe").is_fifo()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(twofold):
    assert twofold(*QUICK, "--accesses", str(10**12), "-o", "missing/r.json").code == 3


# -- this host --------------------------------------------------------------------------------------------------


@pytest.mark.medium
@NEEDS_THIS_HOST
def test_a_run_on_this_host_saves_it_beside_the_result_and_can_be_repeated(twofold):
    argv = [*QUICK[:1], "--guest", "64MiB", *QUICK[5:-2], "--json"]
    done = twofold(*argv, "-o", "r.json")
    assert done.code == 0
    name, result = twofold.files()
    assert result == "r.json"
    assert name.startswith("host-")
    assert f"repeat with --host {name}" in done.line
    again = twofold(*argv, "--host", name)
    assert again.out == (twofold.folder / "r.json").read_text()
    assert again.err == ""
    assert FreeMap.load(twofold.folder / name).exact


@pytest.mark.medium
@NEEDS_THIS_HOST
def test_a_run_on_this_host_that_fails_leaves_nothing(twofold):
    done = twofold("compare", "--guest", "999TiB", "--accesses", "10")
    assert done.code == 3
    assert done.line
    assert twofold.files() == []


@pytest.mark.medium
def test_a_program_runs_on_the_engine_that_is_named(twofold):
    argv = ("run", "gups", *HOST, "--steps", "20", "--json")
    one, other = twofold(*argv), twofold(*argv, "--engine", "unicorn")
    assert one == other
    assert one.code == 0
    done = twofold(*argv, "--engine", "bochs")
    assert (done.code, done.line) == (3, "twofold: --engine: unknown engine 'bochs'; known are unicorn")
