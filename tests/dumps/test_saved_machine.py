"""Saved machines: as a container, and as the .npz that they were before; whole, damaged, and lying."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import OLD, chunks_of, container, lived

import twofold as tf
from twofold import memory
from twofold.dumps.saved_machine import ContainedPages
from twofold.errors import FormatError, UnknownNameError

U64 = np.uint64
TYPES = {"about": b"ABOU", "owned": b"OWND", "m2p_runs": b"MRUN", "m2p": b"MGFN", "free_blocks": b"FREE"}
TYPES |= {"mfn": b"TMFN", "pages": b"PAGE"}


def columns() -> dict[str, np.ndarray]:
    """Return the arrays of a machine with two domains."""
    with np.load(OLD) as old:
        return {name: old[name] for name in old.files}


def write_old(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def write_new(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.write_bytes(container([(TYPES[name], array.tobytes()) for name, array in arrays.items()]))


WRITERS = {"npz": write_old, "container": write_new}


@pytest.fixture(params=WRITERS.values(), ids=WRITERS)
def write(request):
    return request.param


# -- whole ------------------------------------------------------------------------------------------------------


def test_a_machine_in_either_file_is_the_one_that_was_saved(write, tmp_path):
    write(tmp_path / "m", columns())
    with lived("4-level", "npt") as machine:
        for domain in machine.domains.values():
            with tf.open_tables(tmp_path / "m", domain=domain.name) as tables:
                assert tables.leaf_array().tolist() == domain.p2m.leaf_array().tolist()
                assert tables.audit() == domain.p2m.audit()
                assert tables.audit().clean


def test_a_machine_of_before_the_container_is_read(tmp_path):
    """The golden file was written by the code that wrote such files, the test before by NumPy."""
    with lived("4-level", "npt") as machine, tf.open_tables(OLD, domain="two") as tables:
        assert tables.leaf_array().tolist() == machine.domains[2].p2m.leaf_array().tolist()
        assert tables.audit().clean


def test_what_is_saved_is_what_the_format_says(tmp_path):
    with lived("4-level", "npt") as machine:
        machine.save(tmp_path / "m")
    chunks = chunks_of(tmp_path / "m")
    assert [(name, content) for name, content in chunks if name != b"ABOU"] == [
        (TYPES[name], array.tobytes()) for name, array in columns().items() if name != "about"
    ]
    assert json.loads(dict(chunks)[b"ABOU"]) == json.loads(columns()["about"].tobytes())


def test_the_same_machine_gives_the_same_file(tmp_path):
    for name in ("one", "two"):
        with lived("4-level", "npt") as machine:
            machine.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_pages_come_by_their_chunk_in_any_order_and_few_are_kept():
    mfns = np.arange(0, 20 * 256 * 3, 3, dtype=U64)
    read = []

    class Fake:
        path = "fake"

        def of_type(self, _):
            return [FakeChunk(number) for number in range(20)]

        def read(self, chunk):
            read.append(chunk.number)
            return b"".join((chunk.number * 256 + row).to_bytes(4096, "little") for row in range(256))

    class FakeChunk:
        bytes_ = 256 * 4096

        def __init__(self, number):
            self.number = number

    pages = ContainedPages(Fake(), mfns)
    rows = np.random.default_rng(1).permutation(len(mfns))[:300].tolist()
    for row in rows:
        assert int.from_bytes(pages.read(int(mfns[row])), "little") == row
    assert pages.read(1) is None
    assert pages.read(int(mfns[-1]) + 3) is None
    assert pages._part.cache_info().currsize == 16
    assert len(read) < len(rows)


def test_a_domain_whose_name_cannot_be_printed_is_not_saved(tmp_path):
    with tf.Machine("64MiB") as machine:
        machine.create_domain("4MiB", name="a\x1b[2J", options=tf.DomainOptions(layout="flat", table_pool=10))
        with pytest.raises(FormatError, match="cannot be printed"):
            machine.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# -- lies -------------------------------------------------------------------------------------------------------


def about(**changes) -> dict[str, np.ndarray]:
    text = json.dumps(json.loads(columns()["about"].tobytes()) | changes)
    return {"about": np.frombuffer(text.encode(), np.uint8)}


def one_domain(**changes) -> dict[str, np.ndarray]:
    return about(domains=[{"domid": 1, "name": "one", "table_format": "npt", "root": 0} | changes])


LIES = {
    "another version": (about(**{"twofold-machine": 2}), "version 2"),
    "a version for a terminal": (about(**{"twofold-machine": "\x1b[2J"}), r"version '\\x1b\[2J'"),
    "no JSON": ({"about": np.frombuffer(b"{", np.uint8)}, "nothing readable"),
    "deep JSON": ({"about": np.frombuffer(b"[" * 100_000, np.uint8)}, "nothing readable"),
    "a huge machine": (about(frames=1 << 60), "cannot be"),
    "a machine of text": (about(frames="9"), "cannot be"),
    "a negative root": (one_domain(root=-1), "cannot be"),
    "a name of a number": (one_domain(name=7), "cannot be"),
    "a name for a terminal": (one_domain(name="\x1b]0;PWNED\x07"), "cannot be printed"),
    "half a character": (one_domain(name="\ud800"), r"'\\ud800', which cannot be printed"),
    "a format that is none": (one_domain(table_format="vtd"), "format 'vtd'"),
    "a format that is no text": (one_domain(table_format=["npt"]), "cannot be"),
    "overlapping owners": ({"owned": np.array([[0, 9, 1, 1], [5, 9, 1, 1]], U64)}, "overlapping"),
    "owners outside": ({"owned": np.array([[0, 1 << 63, 1, 1]], U64)}, "outside"),
    "an owner of 17 bits": ({"owned": np.array([[0, 9, 1 << 16, 1]], U64)}, "no frame table"),
    "an M2P too short": ({"m2p": np.zeros(3, U64)}, "different lengths"),
    "a free block of order 63": ({"free_blocks": np.array([[0, 63]], U64)}, "order above"),
    "a table twice": ({"mfn": np.zeros(2, U64), "pages": np.zeros((2, 4096), np.uint8)}, "twice"),
    "a table outside": ({"mfn": np.array([1 << 50], U64), "pages": np.zeros((1, 4096), np.uint8)}, "beyond"),
    "more tables than pages": ({"pages": np.zeros((3, 4096), np.uint8)}, "pages for"),
}
LIES_OF_NPZ = {
    "floats": ({"m2p": np.zeros(3)}, "no array of ours"),
    "narrow numbers": ({"m2p": np.zeros(3, np.uint16)}, "not <u8"),
    "objects": ({"m2p": np.array([{}], object)}, "no array of ours"),
    "pages of another size": ({"pages": np.zeros((3, 512), np.uint8)}, "rows of"),
}
LIES_OF_CONTAINER = {
    "half a row": ({"owned": np.zeros(5, U64)}, "no whole number of rows"),
    "tables out of order": ({"mfn": np.arange(12, 0, -1, dtype=U64)}, "ascending"),
    "half a page": ({"pages": np.zeros(12 * 4096 - 1, np.uint8)}, "pages for another number"),
}


@pytest.mark.medium
@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_contradicts_itself_is_refused_with_what_is_wrong(write, tmp_path, lie):
    change, message = LIES[lie]
    write(tmp_path / "m", columns() | change)
    with pytest.raises(FormatError, match=message):
        tf.open_tables(tmp_path / "m", domain="one")


@pytest.mark.parametrize("lie", LIES_OF_NPZ)
def test_an_npz_that_holds_other_arrays_is_refused(tmp_path, lie):
    change, message = LIES_OF_NPZ[lie]
    write_old(tmp_path / "m", columns() | change)
    with pytest.raises(FormatError, match=message):
        tf.open_tables(tmp_path / "m", domain="one")


@pytest.mark.parametrize("lie", LIES_OF_CONTAINER)
def test_a_container_that_holds_other_arrays_is_refused(tmp_path, lie):
    change, message = LIES_OF_CONTAINER[lie]
    write_new(tmp_path / "m", columns() | change)
    with pytest.raises(FormatError, match=message):
        tf.open_tables(tmp_path / "m", domain="one")


@pytest.mark.parametrize("name", TYPES)
def test_a_machine_that_lacks_an_array_is_refused(write, tmp_path, name):
    write(tmp_path / "m", {key: array for key, array in columns().items() if key != name})
    with pytest.raises(FormatError):
        tf.open_tables(tmp_path / "m", domain="one")


def test_a_machine_that_would_fill_this_one_is_refused_before_it_is_unpacked(write, tmp_path):
    everything = np.array([[0, (1 << 32) - 1, 1, 2]], U64)
    write(tmp_path / "m", columns() | about(frames=1 << 32) | {"owned": everything})
    with pytest.raises(FormatError, match="of memory, and max_memory allows"):
        tf.open_tables(tmp_path / "m", domain="one")


def test_arrays_that_would_fill_this_machine_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    write_new(tmp_path / "m", columns())
    monkeypatch.setattr(memory, "free_bytes", lambda: 4 << 10)
    with pytest.raises(FormatError, match="and max_memory allows 1KiB"):
        tf.open_tables(tmp_path / "m", domain="one")


def test_a_root_that_the_file_does_not_hold_is_a_finding_and_maps_nothing(write, tmp_path):
    write(tmp_path / "m", columns() | one_domain(root=5000))
    with tf.open_tables(tmp_path / "m", domain="one") as tables:
        assert tables.get_entry(0x2345).mfn == tf.INVALID_MFN
        report = tables.audit()
    assert not report.clean
    assert "points to a frame that is no table of this domain (mfn 0x1388" in str(report.findings[0])


# -- damage -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "m"
    with lived("4-level", "npt") as machine:
        machine.save(path)
    return path.read_bytes()


def refusal(folder, content: bytes) -> FormatError:
    path = folder / "m"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        tf.open_tables(path, domain="one").close()
    return caught.value


@given(st.data())
def test_a_bit_that_flipped_is_named_with_its_place(tmp_path_factory, saved, data):
    place = data.draw(st.one_of(st.integers(0, 400), st.integers(0, len(saved) - 1)))
    content = bytearray(saved)
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    error = refusal(tmp_path_factory.mktemp("flip"), bytes(content))
    if place >= 32:  # before, it is no container of this kind any more
        assert error.offset is not None
        assert error.offset <= place


@given(st.data())
def test_a_file_that_was_cut_short_is_named_with_the_place(tmp_path_factory, saved, data):
    length = data.draw(st.one_of(st.integers(0, 400), st.integers(0, len(saved) - 1)))
    error = refusal(tmp_path_factory.mktemp("cut"), saved[:length])
    if length >= 32:
        assert error.offset is not None
        assert error.offset <= length
        assert "cut short" in str(error)


@given(st.binary(min_size=1, max_size=100))
def test_nothing_may_follow(tmp_path_factory, saved, more):
    error = refusal(tmp_path_factory.mktemp("more"), saved + more)
    assert error.offset == len(saved)


@pytest.mark.medium
@settings(max_examples=60)
@given(st.data())
def test_numbers_of_any_kind_end_in_an_expected_error_or_in_a_report(tmp_path_factory, data):
    """The checksums are right, the numbers are not: what a hostile writer makes."""
    arrays = {name: array.copy() for name, array in columns().items()}
    for _ in range(data.draw(st.integers(1, 4))):
        flat = arrays[data.draw(st.sampled_from(sorted(arrays)))].reshape(-1)
        word = data.draw(st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1)))
        flat[data.draw(st.integers(0, min(len(flat), 4000) - 1))] = word & int(np.iinfo(flat.dtype).max)
    path = tmp_path_factory.mktemp("numbers") / "m"
    write_new(path, arrays)
    with contextlib.suppress(FormatError, UnknownNameError), tf.open_tables(path, domain="one") as tables:
        tables.audit()
        tables.leaf_array()
