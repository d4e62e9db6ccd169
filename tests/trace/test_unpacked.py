"""Trace files of our own, packed or out of a pipe: read as from disk, kept as far as they are whole, bounded."""

import gzip
import lzma
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

import twofold as tf
from twofold.trace import open_reader

GVAS = np.arange(5000, dtype=np.uint64) * np.uint64(64)


@pytest.fixture
def own(tmp_path):
    """The bytes of a trace file with two vCPUs."""
    tf.Trace.of(GVAS, vcpus=np.arange(len(GVAS)) % 2).save(tmp_path / "own.twotrace")
    return (tmp_path / "own.twotrace").read_bytes()


def read(path, name=None):
    """Return every address and vCPU of a trace."""
    return [
        (*pair,) for block in open_reader(path, name).blocks() for pair in zip(block.gvas, block.vcpus, strict=True)
    ]


@pytest.mark.parametrize("name", [None, "twotrace"])
@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_a_packed_trace_file_is_the_same(tmp_path, own, pack, name):
    (tmp_path / "packed").write_bytes(pack(own))
    assert read(tmp_path / "packed", name) == read(tmp_path / "own.twotrace")
    converted = tf.convert_trace(tmp_path / "packed", tmp_path / "again")
    assert (converted.accesses, converted.problem) == (len(GVAS), None)
    assert (tmp_path / "again").read_bytes() == own


@pytest.mark.parametrize("name", [None, "twotrace"])
def test_a_trace_file_comes_through_a_pipe(tmp_path, own, name):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(own,))
    writer.start()
    found = read(tmp_path / "pipe", name)
    writer.join()
    assert found == read(tmp_path / "own.twotrace")


def test_of_a_packed_trace_file_that_was_cut_what_is_whole_is_kept(tmp_path):
    rng = np.random.default_rng(1)
    tf.Trace.of(rng.integers(0, 1 << 40, (1 << 20) + 99).astype(np.uint64)).save(tmp_path / "own.twotrace")
    packed = gzip.compress((tmp_path / "own.twotrace").read_bytes(), 1)
    (tmp_path / "cut").write_bytes(packed[:-200])
    converted = tf.convert_trace(tmp_path / "cut", tmp_path / "kept")
    assert converted.accesses == 1 << 20, "the first part"
    assert converted.problem.problem == "ends in the middle of its gzip data"
    assert converted.problem.path == str(tmp_path / "cut")


def test_what_is_no_trace_file_is_not_copied_first():
    with pytest.raises(tf.FormatError, match="/dev/zero: "):
        open_reader(Path("/dev/zero"), "twotrace")


def test_no_room_for_a_copy_is_one_line_that_names_the_folder(tmp_path, own, monkeypatch):
    (tmp_path / "packed").write_bytes(gzip.compress(own))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(tf.FormatError, match=r"cannot hold the trace's accesses: No space left.*TMPDIR"):
        open_reader(tmp_path / "packed")
