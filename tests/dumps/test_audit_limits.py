"""What a file claims is counted before anything is taken for it: frames, domains, members, text, and pages."""

import json
import zipfile

import numpy as np
import pytest
from made import OLD, container, raw

import twofold as tf
from twofold.dumps import audit_file, found, open_tables
from twofold.errors import FormatError, SizeError
from twofold.formats.table_formats import NPT
from twofold.p2m import P2MType

U64 = np.uint64
MIB = 1 << 20
FRAMES = 1 << 32


def machine(path, *, frames, domains, owned=(), tables=None, m2p_runs=()):
    """Write a saved machine: what it says of itself, and {mfn: {slot: entry}} of its tables."""
    tables = tables or {}
    about = {"twofold-machine": 1, "paging": "4-level", "frames": frames, "domains": domains}
    pages = np.zeros((len(tables), 512), U64)
    for row, entries in enumerate(tables.values()):
        for slot, entry in entries.items():
            pages[row, slot] = entry
    named = sum(length for _, length in m2p_runs)
    chunks = [
        (b"ABOU", json.dumps(about).encode()),
        (b"OWND", np.array(owned, U64).reshape(-1, 4).tobytes()),
        (b"MRUN", np.array(m2p_runs, U64).reshape(-1, 2).tobytes()),
        (b"MGFN", np.zeros(named, U64).tobytes()),
        (b"FREE", b""),
        (b"TMFN", np.array(list(tables), U64).tobytes()),
        *[(b"PAGE", pages.tobytes())] * bool(tables),
    ]
    path.write_bytes(container(chunks))
    return path


def domain(domid, root=0, name="d"):
    return {"domid": domid, "name": name, "table_format": "npt", "root": root}


def test_a_machine_of_16_tib_is_audited_where_it_has_something(tmp_path):
    path = machine(
        tmp_path / "m",
        frames=FRAMES,
        domains=[domain(1, root=FRAMES - 1)],
        owned=[(5, 1, 1, 1), (FRAMES - 1, 1, 1, 2)],
        tables={FRAMES - 1: {}},
    )
    told = []
    (audited,) = audit_file(path, max_memory="1MiB", progress=lambda *far: told.append(far))
    assert audited.report.orphans == 1
    assert len(told) < 8, "not a step for each 4 Mi frames that are claimed"


@pytest.mark.parametrize("owned", [[(0, FRAMES, 1, 1)], [(mfn << 20, 1, 1, 1) for mfn in range(4096)]])
def test_frames_that_are_owned_count_before_they_are_written_down(tmp_path, owned):
    path = machine(tmp_path / "m", frames=FRAMES, domains=[domain(1)], owned=owned)
    with pytest.raises(FormatError, match="of memory, and max_memory allows 32MiB"):
        audit_file(path, max_memory="32MiB")


def test_many_domains_in_much_memory_are_not_all_audited(tmp_path):
    every = [domain(number) for number in range(1, 2000)]
    path = machine(tmp_path / "m", frames=1 << 28, domains=every, owned=[(0, 1 << 28, 1, 1)])
    with pytest.raises(FormatError, match="holds 1999 domains in 1TiB: too much for one audit; name a domain"):
        audit_file(path, max_memory="4GiB")
    path = machine(tmp_path / "m", frames=1 << 20, domains=[domain(1), domain(1)])
    with pytest.raises(FormatError, match="names one domid for two domains"):
        audit_file(path)


def test_leaves_that_map_everything_over_and_over_end(tmp_path, monkeypatch):
    monkeypatch.setattr(found, "_LEAST_FRAMES", 1 << 24)
    large = int(NPT.flags(P2MType.RAM_RW, "rwx")) | 1 << 7
    table = int(NPT.flags(P2MType.RAM_RW, "rwx")) & 0xFFF
    tables = {1: {0: 2 << 12 | table}, 2: dict.fromkeys(range(512), large)}
    owned = [(1, 2, 1, 2)]
    path = machine(tmp_path / "m", frames=1 << 28, domains=[domain(1, root=1)], owned=owned, tables=tables)
    with pytest.raises(FormatError, match=r"is not audited to the end: .* over and over"):
        audit_file(path)


def test_pages_count_once_unpacked_once_collected_and_once_for_look_ups(tmp_path):
    pages = {mfn: (2 if mfn == 1 else 1, {0: 1}) for mfn in range(1, 257)}
    pages[1] = (2, {slot - 2: slot << 12 | 7 for slot in range(2, 257)})
    path = raw(tmp_path, pages)
    with pytest.raises(FormatError, match="max_memory allows 1MiB"):
        open_tables(path, table_format="npt-2", max_memory="1MiB")
    with pytest.raises((FormatError, tf.UnknownNameError)):
        open_tables(path, table_format="npt-2", max_memory="1536KiB")


def test_a_text_about_a_machine_counts_as_the_objects_that_it_becomes(tmp_path):
    path = tmp_path / "m"
    chunks = [(name, b"") for name in (b"OWND", b"MRUN", b"MGFN", b"FREE", b"TMFN")]
    path.write_bytes(container([(b"ABOU", b"[" * MIB), *chunks]))
    with pytest.raises(FormatError, match="takes 82MiB of memory, and max_memory allows 64MiB"):
        audit_file(path, max_memory="64MiB")


def test_an_archive_of_very_many_members_is_not_listed(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("mfn.npy", b"")
        for number in range(20_000):
            archive.writestr(f"{number}.npy", b"")
    with pytest.raises(FormatError, match="its directory is longer than that of any file of tables"):
        audit_file(tmp_path / "m.npz")


def test_a_limit_bounds_every_file_and_has_to_be_a_size(tmp_path):
    assert len(audit_file(OLD, max_memory="64MiB")) == 2
    with pytest.raises(FormatError, match="max_memory allows 4KiB"):
        audit_file(OLD, max_memory="4KiB")
    with pytest.raises(SizeError):
        audit_file(OLD, max_memory="much")


def test_a_name_out_of_a_file_is_not_longer_than_a_line(tmp_path):
    path = machine(tmp_path / "m", frames=16, domains=[domain(1, name="x" * 201)])
    with pytest.raises(FormatError, match="no name is longer than 200 letters"):
        audit_file(path)
    with tf.Machine("64MiB") as made:
        made.create_domain("4MiB", name="x" * 201, options=tf.DomainOptions(layout="flat", table_pool=10))
        with pytest.raises(FormatError, match="a name of more than 200 letters"):
            made.save(tmp_path / "n")
