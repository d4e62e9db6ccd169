"""What tests read of the recordings of a real Xen 4.17 (tests/golden/README.md)."""

import json
import re
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "xen"


def read(name: str):
    """Return (leaves, meta) of a recording; leaves are None where they were too large to record."""
    path = GOLDEN / name / "leaves.npz"
    leaves = None
    if path.exists():
        with np.load(path) as arrays:
            leaves = {key: arrays[key] for key in arrays.files}
    return leaves, json.loads((GOLDEN / name / "meta.json").read_text())


def layout_of(name: str) -> tuple[str, int]:
    """Return the layout and the MiB of the guest of a recording, which its name says."""
    layout, mib = re.search(r"(pvh|hvm)(\d+)", name).groups()
    return layout, int(mib)


def tables_by_level(p2m, gfns) -> dict[str, int]:
    """Return the tables that walks meet, by level, numbered as in the recording (4 is the root)."""
    _, firsts = np.unique(gfns >> np.uint64(9), return_index=True)  # one gfn for each table of 4K leaves will do
    met = {(step.level, step.table) for gfn in gfns[firsts].tolist() for step in p2m.walk(gfn)}
    levels = [level + 1 for level, _ in met]
    return {str(level): levels.count(level) for level in (4, 3, 2, 1)}
