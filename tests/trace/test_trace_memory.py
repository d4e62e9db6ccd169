"""A long trace file is simulated in little memory."""

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


@pytest.mark.slow
def test_a_hundred_million_accesses_take_at_most_512_mib_beside_the_tables(tmp_path):
    path = tmp_path / "long.twotrace"
    steps = np.arange(PART_ACCESSES, dtype=np.uint64)

    def fill(writer):
        for start in range(0, ACCESSES, PART_ACCESSES):
            count = min(PART_ACCESSES, ACCESSES - start)
            lines = (steps[:count] + np.uint64(start)) * np.uint64(64 * 8191) % np.uint64(FOOTPRINT)
            writer.append(TraceBlock.of(lines + np.uint64(AREA_BASE), kinds=(steps[:count] % 2).astype(np.uint8)))
        return ()

    assert write_trace(path, "test", fill) == ACCESSES
    argv = ["simulate", str(path), "--size", "4GiB", "--guest", "2GiB"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *argv, "--max-memory", LIMIT, "--json", "-q"],
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["stats"]["accesses"] == ACCESSES
    assert shown["resident_bytes"] <= 512 << 20
    assert int(done.stderr.split()[-1]) <= 512 << 10, "KiB, the peak as the kernel saw it"
