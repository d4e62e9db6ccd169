"""A long trace file is simulated, and its curves counted, in little memory."""

import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from twofold.trace import AREA_BASE, TraceBlock
from twofold.trace.layout import PART_ACCESSES
from twofold.trace.stored import write_trace

ACCESSES = 100_000_000
FOOTPRINT = 1 << 30
LIMIT = "512MiB"
MEASURE = """
import re, sys
from twofold.cli import main
try:
    main()
finally:
    status = dict(re.findall(r"(\\w+):\\s+(\\d+) kB", open("/proc/self/status").read()))
    print(int(status["VmHWM"]) - int(status["RssShmem"]), file=sys.stderr)
"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """A trace file of 100 million accesses: 900 MB."""
    path = tmp_path_factory.mktemp("long") / "long.twotrace"
    steps = np.arange(PART_ACCESSES, dtype=np.uint64)

    def fill(writer):
        for start in range(0, ACCESSES, PART_ACCESSES):
            count = min(PART_ACCESSES, ACCESSES - start)
            lines = (steps[:count] + np.uint64(start)) * np.uint64(64 * 8191) % np.uint64(FOOTPRINT)
            writer.append(TraceBlock.of(lines + np.uint64(AREA_BASE), kinds=(steps[:count] % 2).astype(np.uint8)))
        return ()

    assert write_trace(path, "test", fill) == ACCESSES
    yield path
    path.unlink()


def measured(*argv):
    """Run a command under the limit; return its JSON, once the kernel agrees that it held no more."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, argv), "--max-memory", LIMIT, "--json", "-q"],
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) <= 512 << 10, "KiB, the peak as the kernel saw it"
    return json.loads(done.stdout)


def test_a_hundred_million_accesses_take_at_most_512_mib_beside_the_tables(long_file):
    shown = measured("simulate", long_file, "--size", "4GiB", "--guest", "2GiB")
    assert shown["stats"]["accesses"] == ACCESSES
    assert shown["resident_bytes"] <= 512 << 20


def test_curves_of_a_hundred_million_accesses_take_at_most_512_mib(long_file):
    found = measured("curve", long_file, "--sets", "1,128", "--ways", "64")["curves"]
    assert [each["misses"][0] for each in found] == [ACCESSES, ACCESSES]


def test_curves_of_a_packed_text_take_no_more(tmp_path):
    path, copies = tmp_path / "long.txt.gz", 2000
    lines = b"".join(b" L %x,8\n" % (AREA_BASE + 4096 * page) for page in range(5000))
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(copies):
            file.write(lines)
    (found,) = measured("curve", path, "--ways", "8000")["curves"]
    assert found["misses"][0] == found["misses"][4999] == 5000 * copies
    assert found["misses"][5000] == 5000, "a cycle that fits misses once a page"
