"""Machines and files that the tests of this folder look into."""

import struct
import zlib
from pathlib import Path

import numpy as np

import twofold as tf
from twofold.dumps import Container
from twofold.dumps.container import MAGIC

GOLDEN = Path(__file__).parents[1] / "golden"
OLD = GOLDEN / "saved" / "machine-1.npz"
MACHINE_TYPES = {"ABOU", "OWND", "MRUN", "MGFN", "FREE", "TMFN", "PAGE"}


def lived(paging: str, table_format: str) -> tf.Machine:
    """Return a machine with two domains that hold leaves of all sizes, places, holes and another's frames."""
    machine = tf.Machine("512MiB" if paging == "2-level" else "4GiB", paging=paging)
    for name in ("one", "two"):
        options = tf.DomainOptions(layout="flat", table_format=table_format, table_pool=300)
        domain = machine.create_domain("64MiB", name=name, options=options)
        tf.build(domain, "opportunistic")
        domain.p2m.split(0x2345, 0)
        domain.memory.decrease_reservation([0x1000], 0)
        domain.p2m.set_entry(0x8000, tf.INVALID_MFN, 0, tf.P2MType.POPULATE_ON_DEMAND)
    return machine


def raw(folder: Path, pages: dict[int, tuple[int, dict[int, int]]], dtype=np.uint64, save=np.savez_compressed) -> Path:
    """Write {mfn: (level, {slot: entry})} as raw pages."""
    content = np.zeros((len(pages), 4096), np.uint8)
    for row, (_, entries) in enumerate(pages.values()):
        for slot, entry in entries.items():
            content[row].view(dtype)[slot] = entry
    levels = np.array([level for level, _ in pages.values()], np.uint8)
    save(folder / "t.npz", mfn=np.array(list(pages), np.uint64), level=levels, pages=content)
    return folder / "t.npz"


def crc(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


def header(kind: bytes = b"machine", version: int = 1) -> bytes:
    return crc(struct.pack("<12sI8sI", MAGIC, version, kind, 0))


def head(name: bytes, content: bytes, bytes_: int | None = None, packing: int = 0, stored: int | None = None) -> bytes:
    """Return the head of a chunk, its checksums right, its numbers as asked for."""
    stored, bytes_ = (len(content) if number is None else number for number in (stored, bytes_))
    return crc(struct.pack("<4sIQQI", name, packing, stored, bytes_, zlib.crc32(content)))


def done(heads: list[bytes]) -> bytes:
    content = struct.pack("<QII", len(heads), zlib.crc32(b"".join(heads)), 0)
    return head(b"DONE", content) + content


def container(chunks: list[tuple[bytes, bytes]], kind: bytes = b"machine") -> bytes:
    """Return a container, nothing packed, made without the code that is tested."""
    heads = [head(name, content) for name, content in chunks]
    body = b"".join(top + content for top, (_, content) in zip(heads, chunks, strict=True))
    return header(kind) + body + done(heads)


def chunks_of(path: Path) -> list[tuple[bytes, bytes]]:
    """Return (type, what it holds) of each chunk of a saved machine."""
    with Container(path, "machine", MACHINE_TYPES) as opened:
        return [(chunk.type.encode(), opened.read(chunk)) for chunk in opened.chunks]
