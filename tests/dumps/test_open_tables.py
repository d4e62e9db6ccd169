"""Somebody else's tables: recordings of a real Xen, saved machines of ours, and files that lie."""

import contextlib
import json
import os
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import GOLDEN as ALL_GOLDEN
from made import OLD, lived, raw

import twofold as tf
from kinds import FORMATS
from twofold import memory
from twofold.dumps import raw_pages
from twofold.errors import FormatError, UnknownNameError
from twofold.formats import findings
from twofold.formats.table_formats import P2M_FORMATS

GOLDEN = ALL_GOLDEN / "xen"
RECORDINGS = sorted(path.name for path in GOLDEN.iterdir())


# -- recordings -------------------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_has_no_structural_finding_and_the_tables_that_were_counted(name):
    meta = json.loads((GOLDEN / name / "meta.json").read_text())
    with tf.open_tables(GOLDEN / name) as tables:
        report = tables.audit()
        assert report.clean, report.findings[:3]
        assert (report.tables, report.empty_tables) == (meta["n_tables"], meta["empty_table_pages"])
        assert report.leaves + report.places == sum(meta["leaf_counts"].values())
        assert report.skipped, "it says that there was no M2P"
        assert int(tables.leaf_array()["recalc"].sum()) == meta["leaves_needing_recalc"]
        assert int(tables.root) == int(str(meta["root_mfn"]), 0)


@pytest.mark.parametrize("name", [name for name in RECORDINGS if (GOLDEN / name / "leaves.npz").exists()])
def test_the_leaves_are_exactly_the_recorded_rows(name):
    with np.load(GOLDEN / name / "leaves.npz") as recorded, tf.open_tables(GOLDEN / name) as tables:
        rows = tables.leaf_array()
        present = (recorded["pte"] & 1) != 0
        for column in ("gfn", "order", "type"):
            assert rows[column].tolist() == recorded[column].tolist()
        assert rows["present"].tolist() == present.tolist()
        assert rows["mfn"][present].tolist() == recorded["mfn"][present].tolist()
        assert (rows["mfn"][~present] == tf.INVALID_MFN).all()
        assert tables.translate(rows["gfn"][present]).tolist() == recorded["mfn"][present].tolist()


def test_look_ups_are_those_of_a_p2m_of_ours():
    with np.load(GOLDEN / "pvh2048_dec4k" / "leaves.npz") as leaves, tf.open_tables(GOLDEN / "pvh2048_dec4k") as tables:
        for row in range(0, len(leaves["gfn"]), 97):
            gfn, mfn, order = (int(leaves[column][row]) for column in ("gfn", "mfn", "order"))
            entry = tables.get_entry(gfn + (1 << order) - 1)
            assert (entry.mfn, entry.order, entry.access) == (mfn + (1 << order) - 1, order, "rwx")
            assert tables.walk(gfn)[-1].entry == int(leaves["pte"][row])
        assert tables.get_entry(0x12345).mfn == tf.INVALID_MFN, "the frame that was given back"
        assert sum(count << order for order, count in tables.leaves().items()) == tables.runs(0, 1 << 20)[2].sum()
        assert tables.fault(0x12345 << 12).kind == "npf"
        assert tables.fault(0) is None


# -- saved machines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("paging", "table_format"), FORMATS.values(), ids=FORMATS)
def test_a_saved_machine_reads_back_as_it_was(paging, table_format, tmp_path):
    with lived(paging, table_format) as machine:
        machine.save(tmp_path / "m.npz")
        for domain in machine.domains.values():
            with tf.open_tables(tmp_path / "m.npz", domain=domain.name) as tables:
                assert tables.leaf_array().tolist() == domain.p2m.leaf_array().tolist()
                assert tables.max_gfn == domain.p2m.max_gfn
                assert tables.format is domain.p2m.format
                assert tables.walk(0x2345) == domain.p2m.walk(0x2345)
                assert tables.audit() == domain.p2m.audit()
                assert tables.audit().clean


def test_what_is_wrong_in_a_machine_is_found_in_its_file_too(tmp_path):
    with lived("4-level", "npt") as machine:
        one, two = machine.domains.values()
        mine, other = one.p2m.get_entry(0x2345).mfn, two.p2m.get_entry(0x2345).mfn
        step = one.p2m.walk(0x2345)[-1]
        machine.arena.tables[step.table, step.slot] ^= np.uint64((mine ^ other) << 12)
        machine.save(tmp_path / "m.npz")
        with tf.open_tables(tmp_path / "m.npz", domain=1) as tables:
            report = tables.audit()
        assert report == one.p2m.audit()
        assert findings.LEAF_OF_OTHER in {finding.code for finding in report.findings}
        assert "maps frames of another domain" in str(report.findings[0])


def test_a_domain_has_to_be_named_where_there_are_several(tmp_path):
    with lived("4-level", "npt") as machine:
        machine.save(tmp_path / "m.npz")
    with pytest.raises(FormatError, match="one, two"):
        tf.open_tables(tmp_path / "m.npz")
    with pytest.raises(UnknownNameError, match="three"):
        tf.open_tables(tmp_path / "m.npz", domain="three")
    with pytest.raises(FormatError, match="name no format"):
        tf.open_tables(tmp_path / "m.npz", table_format="ept")
    with pytest.raises(FormatError, match="name none"):
        tf.open_tables(GOLDEN / "pvh300", domain="one")
    with pytest.raises(FormatError, match="4 levels"):
        tf.open_tables(GOLDEN / "pvh300", table_format="ept-5")


# -- tables that lie --------------------------------------------------------------------------------------------


def test_loops_wild_pointers_and_tables_met_twice_are_named_and_translate_nothing(tmp_path):
    table, leaf = 0x67, 0x67
    path = raw(
        tmp_path,
        {
            5: (4, {0: 6 << 12 | table, 1: 5 << 12 | table, 2: 4 << 12 | table, 3: 1 << 50 | table}),
            6: (3, {0: 7 << 12 | table, 1: 7 << 12 | table, 2: 6 << 12 | table}),
            7: (2, {0: 8 << 12 | table, 1: 0x200 << 12 | leaf | 0x80, 2: 0x2002 << 12 | leaf | 0x80}),
            8: (1, {0: 0x300 << 12 | leaf, 1: 6 << 12 | leaf}),
        },
    )
    with tf.open_tables(path) as tables:
        report = tables.audit()
        found = sorted(finding.code for finding in report.findings)
        assert found == sorted(
            [findings.TABLE_TWICE] * 3
            + [findings.TABLE_NOT_OWNED, findings.TABLE_OUTSIDE, findings.MISALIGNED, findings.LEAF_ONTO_TABLE]
        )
        assert tables.get_entry(0).mfn == 0x300
        for gfn in (1 << 27, 2 << 27, 3 << 27, 1 << 18, 2 << 18):
            assert tables.get_entry(gfn).mfn == tf.INVALID_MFN
        everywhere = np.arange(0, 1 << 36, (1 << 20) + 1, dtype=np.uint64)
        assert (tables.translate(everywhere)[1:] == tf.INVALID_MFN).all()
        assert [int(gfn) for gfn in tables.leaf_array()["gfn"]] == [0, 1, 0x200, 0x400]
        assert tables.walk(1 << 27)[-1].entry == 5 << 12 | table, "a walk shows the entry as it stands in the file"
        assert tables.clear_frames(0x600, 1 << 20) == 1 << 20


def test_a_look_up_leaves_no_trace(tmp_path):
    path = raw(tmp_path, {1: (2, {0: 2 << 12 | 7}), 2: (1, {3: 0x300 << 12 | 7})}, np.uint32)
    with tf.open_tables(path) as tables:
        before = tables.walk(3)
        assert tables.fault(0x3000, "write") is None
        assert tables.walk(3) == before


WORDS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.builds(lambda frame, flags: frame << 12 | flags, st.integers(0, 12), st.sampled_from([0x67, 0xE7, 0x63, 7, 1])),
)


@st.composite
def wild_files(draw):
    name = draw(st.sampled_from(["npt", "npt-5", "npt-pae", "npt-2", "ept", "ept-5"]))
    table_format = P2M_FORMATS[name]
    count = draw(st.integers(1, 10))
    levels = [
        table_format.geometry.levels,
        *draw(st.lists(st.integers(0, 255), min_size=count - 1, max_size=count - 1)),
    ]
    levels[1:] = [level % table_format.geometry.levels for level in levels[1:]]
    content = np.zeros((count, 4096), np.uint8)
    for _ in range(draw(st.integers(0, 40))):
        words = content[draw(st.integers(0, count - 1))].view(table_format.entry_dtype)
        slot = draw(st.one_of(st.integers(0, 3), st.integers(0, len(words) - 1)))
        words[slot] = draw(WORDS) & int(np.iinfo(table_format.entry_dtype).max)
    return name, np.array(levels, np.uint8), content


@given(wild_files())
def test_tables_of_random_bytes_end_in_a_report_and_in_answers(tmp_path_factory, made):
    name, levels, content = made
    path = tmp_path_factory.mktemp("wild") / "t.npz"
    np.savez(path, mfn=np.arange(len(levels), dtype=np.uint64), level=levels, pages=content)
    with tf.open_tables(path, table_format=name) as tables:
        report = tables.audit()
        rows = tables.leaf_array()
        assert report.tables == tables.tables or not report.clean, (
            "both walks meet the same tables, if nothing is wrong"
        )
        if report.clean:
            assert report.leaves + report.places == len(rows)
        gfns = rows["gfn"][rows["present"]]
        assert tables.translate(gfns).tolist() == rows["mfn"][rows["present"]].tolist()
        for gfn in gfns[:20].tolist():
            assert tables.get_entry(gfn).mfn == rows["mfn"][rows["gfn"] == gfn][0]
            tables.fault(gfn << 12, "write")
        tables.runs(0, min(1 << 30, tables.geometry.frame_limit))


# -- files that lie ---------------------------------------------------------------------------------------------


@pytest.mark.medium
@settings(max_examples=60)
@given(st.data())
def test_a_damaged_npz_ends_in_an_expected_error_or_in_a_report(tmp_path_factory, data):
    domain = data.draw(st.sampled_from([None, "one"]))
    content = bytearray(OLD.read_bytes() if domain else (GOLDEN / "pvh300" / "npt_pages.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path_factory.mktemp("damaged") / "m.npz"
    path.write_bytes(content)
    with contextlib.suppress(tf.TwofoldError), tf.open_tables(path, domain=domain) as opened:
        opened.audit()


def test_an_array_that_unpacks_to_more_than_promised_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 4 << 20)
    np.savez_compressed(
        tmp_path / "bomb.npz",
        mfn=np.zeros(1, np.uint64),
        level=np.zeros(1, np.uint8),
        pages=np.zeros((1 << 14, 4096), np.uint8),
    )
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 17
    with pytest.raises(FormatError, match="takes 64MiB of memory, and max_memory allows 1MiB"):
        tf.open_tables(tmp_path / "bomb.npz")
    header = (
        b"\x93NUMPY\x01\x00v\x00{'descr': '<u8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(127)
        + b"\n"
    )
    with zipfile.ZipFile(tmp_path / "long.npz", "w") as archive:
        for name in ("mfn", "level", "pages"):
            archive.writestr(f"{name}.npy", header)
    with pytest.raises(FormatError, match=r"mfn\.npy"):
        tf.open_tables(tmp_path / "long.npz")


def test_many_pages_that_are_not_packed_stay_in_their_file(tmp_path, monkeypatch):
    with np.load(GOLDEN / "pvh1536" / "npt_pages.npz") as recorded:
        columns = {name: recorded[name][::-1] for name in recorded.files}  # not in the order of frames
    np.savez(tmp_path / "t.npz", **columns)
    monkeypatch.setattr(raw_pages, "_IN_PLACE", 1)
    with tf.open_tables(tmp_path / "t.npz") as tables, tf.open_tables(GOLDEN / "pvh1536") as packed:
        assert tables.leaf_array().tolist() == packed.leaf_array().tolist()
        assert tables.audit() == packed.audit()
    dump = raw_pages.RawPagesReader().open(tmp_path / "t.npz")
    mfns = columns["mfn"].tolist()
    assert [dump.source.read(mfn) for mfn in mfns] == [page.tobytes() for page in columns["pages"]]
    assert dump.source.read(max(mfns) + 1) is None
    assert dump.source.read(min(mfns) - 1) is None
    os.truncate(tmp_path / "t.npz", 8000)
    with pytest.raises(FormatError, match="ends inside the page of mfn"):
        dump.source.read(mfns[-1])
    dump.release()


@pytest.mark.medium
@settings(max_examples=60)
@given(st.data())
def test_damaged_pages_that_stay_in_their_file_end_in_an_expected_error_or_in_a_report(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    tables = {1: (2, {0: 2 << 12 | 7}), 2: (1, {3: 0x300 << 12 | 7})}
    content = bytearray(raw(folder, tables, np.uint32, np.savez).read_bytes())
    ends = st.one_of(st.integers(0, 700), st.integers(len(content) - 700, len(content) - 1))  # where the headers are
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(ends)] = data.draw(st.integers(0, 255))
    (folder / "t.npz").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(tf.TwofoldError):
        patch.setattr(raw_pages, "_IN_PLACE", 1)
        with tf.open_tables(folder / "t.npz") as opened:
            opened.audit()


@pytest.mark.parametrize("path", ["nothing.npz", ".", "/dev/zero", "\0"])
def test_what_is_no_file_is_said_to_be_none(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError):
        tf.open_tables(path)


def test_a_machine_that_cannot_be_written_leaves_nothing(tmp_path):
    with tf.Machine("64MiB") as machine, pytest.raises(FormatError):
        machine.save(tmp_path / "no" / "m.npz")
    assert list(tmp_path.iterdir()) == []
