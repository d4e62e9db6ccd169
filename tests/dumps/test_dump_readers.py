"""Readers and their sources: who opens a file, and what of it is read."""

import inspect
import os
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import GOLDEN, OLD, container, lived, raw

import twofold as tf
from twofold import memory
from twofold.dumps import MachineState
from twofold.errors import FormatError, PlugInWarning, UnknownNameError
from twofold.formats import findings
from twofold.formats.p2m_types import P2MType

BUILT_IN = ("machine", "machine-npz", "raw-pages", "table-array")
TABLE = 0x67


class Words:
    """A source out of {mfn: {slot: entry}}; it notes what it is asked for."""

    def __init__(self, tables: dict[int, dict[int, int]]) -> None:
        self.tables, self.asked = tables, []

    def read(self, mfn):
        self.asked.append(mfn)
        if mfn not in self.tables:
            return None
        page = np.zeros(512, np.uint64)
        for slot, entry in self.tables[mfn].items():
            page[slot] = entry
        return page.tobytes()


ONE_ROOT = (tf.DumpRoot(1, "npt"),)


class Given:
    """A reader that gives what it was made with, whatever the file."""

    name = "given"

    def __init__(self, source, frames=1 << 20, roots=ONE_ROOT, **more):
        self.dump = tf.Dump(source, frames, roots, **more)

    def knows(self, start):
        return True

    def open(self, path):
        return self.dump


@pytest.fixture
def path(tmp_path):
    (tmp_path / "f").write_bytes(b"\x7fDUMPED")
    return tmp_path / "f"


def install(folder: Path, monkeypatch, **readers: str) -> None:
    """Install a package with a reader a keyword; its code is a module of its own."""
    info = folder / "house_dumps-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house-dumps\nVersion: 1.0\n")
    lines = []
    for name, code in readers.items():
        (folder / f"dumps_{name}.py").write_text(textwrap.dedent(code))
        lines.append(f"{name} = dumps_{name}:Reader\n")
    (info / "entry_points.txt").write_text("[twofold.dumps]\n" + "".join(lines))
    monkeypatch.syspath_prepend(str(folder))
    for name in readers:
        monkeypatch.delitem(sys.modules, f"dumps_{name}", raising=False)


ELF = """
    import twofold as tf

    class Reader:
        name = "elf"
        def knows(self, start):
            return start.startswith(b"\\x7fDUMPED")
        def open(self, path):
            return tf.Dump(self, 1 << 20, (tf.DumpRoot(1, "ept", name="found"),))
        def read(self, mfn):
            return bytes(4096) if mfn == 1 else None
"""


# -- who opens a file -------------------------------------------------------------------------------------------


def test_the_built_in_readers_are_entry_points():
    listed = tomllib.loads((GOLDEN.parents[1] / "pyproject.toml").read_text())["project"]["entry-points"]
    readers = {name: tf.get_dump_reader(name) for name in BUILT_IN}
    assert {name: f"{type(each).__module__}:{type(each).__name__}" for name, each in readers.items()} == listed[
        "twofold.dumps"
    ]
    assert tf.dump_reader_names()[: len(BUILT_IN)] == BUILT_IN
    assert [each.name for each in readers.values()] == list(BUILT_IN)


def test_a_reader_is_chosen_by_what_a_file_holds_never_by_its_name(tmp_path):
    with lived("4-level", "npt") as machine:
        machine.save(tmp_path / "npt_pages.npz")
    (tmp_path / "machine").write_bytes((GOLDEN / "xen" / "pvh300" / "npt_pages.npz").read_bytes())
    (tmp_path / "pages.twomachine").write_bytes(OLD.read_bytes())
    starts = {name: (tmp_path / name).read_bytes()[:4096] for name in ("npt_pages.npz", "machine", "pages.twomachine")}
    knowing = {
        name: [each for each in BUILT_IN if tf.get_dump_reader(each).knows(start)] for name, start in starts.items()
    }
    assert knowing == {
        "npt_pages.npz": ["machine"],
        "machine": ["raw-pages"],
        "pages.twomachine": ["machine-npz"],
    }
    for name in knowing:
        with tf.open_tables(tmp_path / name, domain=None if name == "machine" else "one") as tables:
            assert tables.audit().clean


@given(st.binary(max_size=200))
def test_no_built_in_reader_knows_other_bytes(start):
    for prefix in (b"", b"PK\x03\x04", b"\x89TWOFOLD\r\n\x1a\n"):
        assert [name for name in BUILT_IN if tf.get_dump_reader(name).knows(prefix + start)] == []


def test_a_reader_that_another_package_installs_opens_what_it_knows(path, tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, elf=ELF)
    assert tf.dump_reader_names() == (*BUILT_IN, "elf")
    with tf.open_tables(path) as tables:
        assert (tables.name, tables.format.name) == ("found", "ept")
    with tf.open_tables(path, domain="found", reader="elf") as tables:
        assert tables.get_entry(0).mfn == tf.INVALID_MFN


@pytest.mark.medium
def test_the_command_line_uses_what_is_installed(path, tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, elf=ELF)
    import twofold

    source = str(Path(twofold.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), source])}
    call = [sys.executable, "-c", "from twofold.cli import main; main()", "audit", "f", "-q"]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "found" in done.stdout
    assert "ept" in done.stdout


def test_two_that_claim_a_file_are_both_named_and_a_name_decides(path, tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, zeta=ELF, elf=ELF)
    with pytest.raises(FormatError, match=r"claimed by elf \(dumps_elf:Reader\) and zeta \(dumps_zeta:Reader\): name"):
        tf.open_tables(path)
    tf.open_tables(path, reader="zeta").close()


def test_one_that_claims_a_file_of_ours_is_named_beside_ours(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, greedy=ELF.replace('b"\\x7fDUMPED"', 'b""'))
    (tmp_path / "m").write_bytes(container([]))
    with pytest.raises(FormatError, match=r"claimed by machine \(built in\) and greedy \(dumps_greedy:Reader\)"):
        tf.open_tables(tmp_path / "m")


@pytest.mark.parametrize(
    "code",
    ["import no_such_module", "Reader = 7", ELF.replace("return start.startswith", "return start.no_such")],
    ids=["import", "made", "asked"],
)
def test_a_reader_that_is_broken_is_named(path, tmp_path, monkeypatch, code):
    install(tmp_path, monkeypatch, bad=code)
    named = pytest.warns(
        PlugInWarning, match=r"dump reader 'bad' \(dumps_bad:Reader\) cannot be used: .*; it is not asked"
    )
    with named, pytest.raises(FormatError, match="no dump of a reader that is installed"):
        tf.open_tables(path)
    with lived("4-level", "npt") as machine:
        machine.save(tmp_path / "m")
    with named, tf.open_tables(tmp_path / "m", domain="one") as tables:
        assert tables.audit().clean


def test_what_nobody_knows_is_refused_with_its_first_bytes_and_with_who_was_asked(path):
    with pytest.raises(FormatError, match=r"\(machine, machine-npz, raw-pages, table-array\): 7f 44 55 4d 50 45 44"):
        tf.open_tables(path)
    with pytest.raises(UnknownNameError, match="raw-pages"):
        tf.open_tables(path, reader="elf")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p")
    for reader in (None, *BUILT_IN):
        with pytest.raises(FormatError, match="is no regular file"):
            tf.open_tables(tmp_path / "p", reader=reader)


@pytest.mark.parametrize("reader", BUILT_IN)
def test_a_reader_that_is_named_for_another_file_refuses_it(path, reader):
    with pytest.raises(FormatError):
        tf.open_tables(path, reader=reader)


# -- what is read -----------------------------------------------------------------------------------------------

HUGE = 1 << 32  # 16 TiB
FAR = HUGE - 1


def test_only_tables_are_read_of_a_dump_of_16_tib_each_once(path):
    source = Words(
        {
            1: {0: FAR << 12 | TABLE, 1: FAR << 12 | TABLE},
            FAR: {0: 7 << 12 | TABLE, 1: 0x40000 << 12 | TABLE | 0x80},
            7: {0: 8 << 12 | TABLE, 1: 0x2000 << 12 | TABLE | 0x80},
            8: {slot: 0x100000 + slot << 12 | TABLE for slot in range(512)},
        }
    )
    with tf.open_tables(path, reader=Given(source, HUGE)) as tables:
        assert sorted(source.asked) == [1, 7, 8, FAR]
        assert tables.get_entry(5).mfn == 0x100005
        assert tables.leaves() == {0: 512, 9: 1, 18: 1}
        assert [finding.code for finding in tables.audit().findings] == [findings.TABLE_TWICE]
    assert len(source.asked) == 4, "nor is anything read by the audit"


def test_a_frame_that_the_file_does_not_hold_is_a_hole_that_the_audit_names(path):
    source = Words({1: {0: 2 << 12 | TABLE}, 2: {0: 3 << 12 | TABLE, 1: 4 << 12 | TABLE}, 4: {}})
    with tf.open_tables(path, reader=Given(source)) as tables:
        report = tables.audit()
        (finding,) = report.findings
        assert (finding.code, finding.gfn, finding.mfn) == (findings.TABLE_NOT_OWNED, 0, 3)
        assert "1 frames that are named as tables are not in the file, the first at mfn 0x3" in report.skipped[-1]
        assert tables.get_entry(0).mfn == tf.INVALID_MFN
        assert tables.get_entry(1 << 18).mfn == tf.INVALID_MFN


def test_a_root_that_the_file_does_not_hold_is_a_finding(path):
    with tf.open_tables(path, reader=Given(Words({}))) as tables:
        report = tables.audit()
        assert [(finding.code, finding.mfn) for finding in report.findings] == [(findings.TABLE_NOT_OWNED, 1)]
        assert report.found == 1
        assert tables.leaf_array().tolist() == []


def test_loops_end_and_a_table_is_read_at_every_level_that_leads_to_it(path):
    """Table 2 is reached as one of level 2 and of level 1: what a reader of either kind follows has been read."""
    source = Words(
        {
            1: {0: 1 << 12 | TABLE, 1: 2 << 12 | TABLE, 2: 3 << 12 | TABLE},
            2: {0: 4 << 12 | TABLE, 1: 1 << 12 | TABLE},
            3: {0: 2 << 12 | TABLE},
            4: {0: 5 << 12 | TABLE},
            5: {0: 6 << 12 | TABLE},
        }
    )
    with tf.open_tables(path, reader=Given(source)) as tables:
        assert sorted(source.asked) == [1, 2, 3, 4, 5], "6 is named by no entry but one of the last level: data"
        report = tables.audit()
        assert {finding.code for finding in report.findings} >= {findings.TABLE_TWICE}


@given(
    st.dictionaries(
        st.integers(1, 12),
        st.dictionaries(
            st.one_of(st.integers(0, 3), st.integers(0, 511)),
            st.one_of(
                st.integers(0, 2**64 - 1),
                st.builds(lambda frame, flags: frame << 12 | flags, st.integers(0, 14), st.sampled_from([0x67, 0xE7])),
            ),
            max_size=8,
        ),
        min_size=1,
    )
)
def test_a_source_and_the_same_pages_in_memory_give_the_same(tmp_path_factory, tables):
    """What is collected lazily is all that an audit of the whole file looks into."""
    tables = {1: {}} | tables
    folder = tmp_path_factory.mktemp("same")
    levels = {mfn: (4 if mfn == 1 else 1, entries) for mfn, entries in tables.items()}
    path = raw(folder, levels)
    lazy = Words(tables)
    held = np.array(sorted(tables), np.uint64)
    reader = Given(lazy, int(held[-1]) + 1, tables=held)
    with tf.open_tables(path) as all_pages, tf.open_tables(path, reader=reader) as reached:
        assert reached.audit() == all_pages.audit()
        assert reached.leaf_array().tolist() == all_pages.leaf_array().tolist()
        assert (reached.tables, reached.max_gfn) == (all_pages.tables, all_pages.max_gfn)
    assert len(lazy.asked) == len(set(lazy.asked))


def test_tables_that_would_fill_this_machine_are_refused_before_they_are_read(path, monkeypatch):
    source = Words({1: {0: 2 << 12 | TABLE}, 2: {slot: 3 + slot << 12 | TABLE for slot in range(512)}})
    source.tables |= {mfn: {} for mfn in range(3, 600)}
    monkeypatch.setattr(memory, "free_bytes", lambda: 4 << 20)
    with pytest.raises(FormatError, match=r"takes 2\.008MiB of memory, and max_memory allows 1MiB"):
        tf.open_tables(path, reader=Given(source))
    assert len(source.asked) == 2


class Wrong:
    def read(self, mfn):
        return b"short"


def test_a_source_that_gives_less_than_a_frame_is_refused(path):
    with pytest.raises(FormatError, match="gave 5 bytes for mfn 0x1: a frame has 4096"):
        tf.open_tables(path, reader=Given(Wrong()))


def test_a_dump_is_released_once_its_tables_are_read(path):
    released = []
    reader = Given(Words({1: {}}), release=lambda: released.append(1))
    with tf.open_tables(path, reader=reader) as tables:
        assert released == [1]
        assert tables.audit().clean
    with pytest.raises(FormatError):
        tf.open_tables(path, reader=Given(Wrong(), release=lambda: released.append(2)))
    with pytest.raises(FormatError):
        tf.open_tables(path, reader=Given(Wrong(), 0, release=lambda: released.append(3)))
    assert released == [1, 2, 3]


# -- what a dump says -------------------------------------------------------------------------------------------


def state(frames: int) -> MachineState:
    machine = tf.Machine(frames * 4096)
    made = MachineState(machine.frame_table, machine.m2p, np.zeros(frames, np.uint8))
    machine.close()
    return made


WRONG = {
    "no memory": ({"frames": 0}, "machine of 0x0 frames"),
    "too much memory": ({"frames": HUGE + 1}, "at most 16TiB|16TiB at most"),
    "a root outside": ({"roots": (tf.DumpRoot(1 << 20, "npt"),)}, "root at mfn 0x100000, outside"),
    "a negative root": ({"roots": (tf.DumpRoot(-1, "npt"),)}, "outside"),
    "a format that is none": ({"roots": (tf.DumpRoot(1, "vtd"),)}, "'vtd'"),
    "a name for a terminal": ({"roots": (tf.DumpRoot(1, "npt", name="\x1b[2J"),)}, "cannot be printed"),
    "no root": ({"roots": ()}, "does not say where its tables begin: name the root"),
    "no format": ({"roots": (tf.DumpRoot(1),)}, "does not say what its tables are: name a format"),
    "levels that no format has": ({"roots": (tf.DumpRoot(1, levels=9),)}, "name a format"),
    "tables outside": ({"tables": np.array([1, 1 << 21], np.uint64)}, "beyond"),
    "tables in disorder": ({"tables": np.array([2, 1], np.uint64)}, "ascending"),
    "another machine": ({"frames": 1 << 15, "machine": state(1 << 14)}, "of another machine"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_a_reader_says_of_a_file_is_held_against_what_can_be(path, wrong):
    change, message = WRONG[wrong]
    with pytest.raises(FormatError, match=message):
        tf.open_tables(path, reader=Given(Words({1: {}}), **change))


def test_a_root_of_the_callers_takes_the_place_of_those_that_a_file_names(path):
    source = Words({5: {0: 6 << 12 | TABLE}, 6: {0: 0x40000 << 12 | TABLE | 0x80}})
    reader = Given(source, roots=())
    with tf.open_tables(path, reader=reader, root=5, table_format="npt") as tables:
        assert tables.leaves() == {0: 0, 9: 0, 18: 1}
    for root in (-1, 1 << 20):
        with pytest.raises(FormatError, match="to begin at"):
            tf.open_tables(path, reader=reader, root=root, table_format="npt")
    with lived("4-level", "npt") as machine:
        machine.save(path)
        root = int(machine.domains[2].p2m.root)
        with tf.open_tables(path, root=root, table_format="npt") as tables:
            assert tables.leaf_array().tolist() == machine.domains[2].p2m.leaf_array().tolist()
            assert tables.audit().skipped, "whose they are is not known"


def test_a_root_with_a_number_of_levels_is_read_as_what_was_asked_for(path):
    entry = 0x300 << 12 | 0x37
    source = Words({1: {0: 2 << 12 | 7}, 2: {0: 3 << 12 | 7}, 3: {0: 4 << 12 | 7}, 4: {0: entry}})
    reader = Given(source, roots=(tf.DumpRoot(1, levels=4),))
    with tf.open_tables(path, reader=reader, table_format="ept") as tables:
        assert tables.get_entry(0).mfn == 0x300
        assert tables.get_entry(0).type == P2MType.RAM_RW
    with tf.open_tables(path, reader=reader) as tables:
        assert tables.format.name == "npt"
    with pytest.raises(FormatError, match="4 levels"):
        tf.open_tables(path, reader=reader, table_format="npt-5")


def test_the_protocols_are_what_the_page_of_dumps_shows():
    for protocol, names in ((tf.FrameSource, {"read"}), (tf.DumpReader, {"knows", "open"})):
        shown = {name for name, _ in inspect.getmembers(protocol, inspect.isfunction) if not name.startswith("_")}
        assert shown == names
