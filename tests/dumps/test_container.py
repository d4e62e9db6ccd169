"""The container: what goes in comes out, and what no writer of ours made is refused with its place."""

import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import container, done, head, header

from twofold.dumps import Container, ContainerWriter
from twofold.dumps import container as room
from twofold.errors import FormatError

KINDS = st.text("abcdefghij", min_size=1, max_size=8)
TYPES = st.text("ABCDefgh", min_size=4, max_size=4)
LONG = st.builds(lambda part, count: part * count, st.binary(max_size=3), st.integers(0, 5000))
PAYLOADS = st.one_of(st.binary(max_size=200), LONG)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "c"


def opened(path, content: bytes, known=("DATA",)) -> list[tuple[str, bytes]]:
    path.write_bytes(content)
    with Container(path, "machine", known) as found:
        return [(chunk.type, found.read(chunk)) for chunk in found.chunks]


def refusal(path, content: bytes) -> FormatError:
    with pytest.raises(FormatError) as caught:
        opened(path, content)
    return caught.value


@given(KINDS, st.lists(st.tuples(TYPES, PAYLOADS), max_size=8))
def test_what_is_written_is_read(tmp_path_factory, kind, things):
    path = tmp_path_factory.mktemp("c") / "c"
    with path.open("wb") as file:
        writer = ContainerWriter(file, kind)
        for type_, payload in things:
            writer.add(type_, payload)
        writer.finish()
    with Container(path, kind, {type_ for type_, _ in things}) as found:
        assert [(chunk.type, found.read(chunk)) for chunk in found.chunks] == things
        for type_ in {type_ for type_, _ in things}:
            assert found.read_all(type_) == b"".join(payload for other, payload in things if other == type_)
    assert room.kind_of(path.read_bytes()[:4096]) == kind


def test_a_container_made_by_the_letter_of_the_format_is_read(path):
    """`made` packs the bytes from the drawing in the module, and shares no code with it."""
    things = [(b"DATA", b"one"), (b"DATA", b""), (b"DATA", bytes(9000))]
    assert opened(path, container(things)) == [(name.decode(), content) for name, content in things]


def test_what_is_longer_than_a_chunk_is_cut_and_joined(path, monkeypatch):
    monkeypatch.setattr(room, "MAX_CHUNK_BYTES", 1000)
    payload = os.urandom(2500)
    with path.open("wb") as file:
        writer = ContainerWriter(file, "machine")
        writer.add("DATA", payload)
        writer.finish()
    with Container(path, "machine", {"DATA"}) as found:
        assert [chunk.bytes_ for chunk in found.chunks] == [1000, 1000, 500]
        assert found.read_all("DATA") == payload
        assert found.bytes_of("DATA") == 2500


def test_an_unknown_chunk_is_skipped_when_small_and_refused_when_capital(path):
    assert opened(path, container([(b"note", b"hello"), (b"DATA", b"x")])) == [("note", b"hello"), ("DATA", b"x")]
    error = refusal(path, container([(b"DATA", b"x"), (b"Note", b"hello")]))
    assert (error.offset, "'Note' that this program does not know" in str(error)) == (32 + 33, True)


def ended(*parts: tuple[bytes, bytes]) -> bytes:
    """Return a container of heads and payloads that need not agree."""
    return header() + b"".join(top + content for top, content in parts) + done([top for top, _ in parts])


BOMB = zlib.compress(bytes(1 << 20))
LIES = {
    "another version": (header(version=2) + done([]), 12, "version 2, this program reads 1"),
    "another kind": (header(kind=b"guest") + done([]), 16, "kind 'guest', not 'machine'"),
    "a kind for a terminal": (header(kind=b"\x1b[2J") + done([]), 16, r"kind '\\x1b"),
    "no header": (b"\x89TWOFOLD\r\n\x1a\n", 0, "header"),
    "another file": (b"PK\x03\x04" + bytes(100), 0, "no container"),
    "line ends changed": (container([]).replace(b"\r\n", b"\n"), 0, "no container"),
    "no end": (header() + head(b"DATA", b"x") + b"x", 65, "cut short"),
    "too few chunks counted": (header() + head(b"DATA", b"") + done([]), 64, "not those that were written"),
    "more after the end": (header() + done([]) + b"\0", 80, "goes on"),
    "a type that is no word": (ended((head(b"DA\x1bA", b"x"), b"x")), 32, "which is none"),
    "a packing that is none": (ended((head(b"DATA", b"x", packing=2), b"x")), 32, "which is none"),
    "a chunk of 2**63 bytes": (ended((head(b"DATA", b"x", stored=1 << 63), b"x")), 32, "more than 16MiB"),
    "one that unpacks to 2**63": (ended((head(b"DATA", BOMB, 1 << 63, packing=1), BOMB)), 32, "more than 16MiB"),
    "two lengths, not packed": (ended((head(b"DATA", b"xy", 1), b"xy")), 32, "not packed"),
    "a chunk beyond the end": (ended((head(b"DATA", b"x", 900, stored=900), b"x")), 32, "cut short"),
    "more packed than promised": (ended((head(b"DATA", BOMB, 1000, packing=1), BOMB)), 64, "promises 1000 bytes"),
    "less packed than promised": (ended((head(b"DATA", BOMB, 2 << 20, packing=1), BOMB)), 64, "promises 2097152"),
    "packed by another": (ended((head(b"DATA", b"xxxx", 9, packing=1), b"xxxx")), 64, "packed wrongly"),
    "packed, and more": (ended((head(b"DATA", BOMB + b"x", 1 << 20, packing=1), BOMB + b"x")), 64, "promises"),
    "another payload": (ended((head(b"DATA", b"x"), b"y")), 64, "checksum of chunk 'DATA' is wrong"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_container_that_lies_is_refused_with_its_place(path, lie):
    content, offset, message = LIES[lie]
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        opened(path, content)
    assert caught.value.offset == offset


def test_a_file_of_very_many_chunks_is_refused_in_the_middle(path, monkeypatch):
    monkeypatch.setattr(room, "MAX_CHUNKS", 50)
    assert len(opened(path, container([(b"note", b"")] * 49))) == 49
    assert refusal(path, container([(b"note", b"")] * 60)).offset == 32 + 50 * 32
    with path.open("wb") as file:
        writer = ContainerWriter(file, "machine")
        for _ in range(50):
            writer.add("note", b"")
        with pytest.raises(FormatError, match="more chunks than"):
            writer.finish()


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_after_a_header_are_refused_with_a_place(tmp_path_factory, content):
    assert refusal(tmp_path_factory.mktemp("c") / "c", header() + content).offset is not None


def test_a_file_that_shrinks_while_it_is_open_is_an_error_not_a_crash(path):
    path.write_bytes(container([(b"DATA", bytes(5000))]))
    with Container(path, "machine", {"DATA"}) as found:
        os.truncate(path, 3000)
        with pytest.raises(FormatError, match="ends inside chunk 'DATA'"):
            found.read_all("DATA")
