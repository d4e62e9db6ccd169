"""A package of one's own, installed: an engine, a paging mode, a dump reader and a design, used from the command line.

Each is one module, and the package's metadata is all that tells Twofold of it.
"""

import json
import struct
import subprocess
import sys

import pytest

from twofold.domain import DomainOptions, Machine, build
from twofold.units import FRAME_BYTES

pytestmark = pytest.mark.medium

MODULES = {
    "house_design": """
from twofold.domain import Mem

class House:
    '''4K below 4 MiB, where this house keeps what it shares; as large as can be above.'''

    name = "house"

    def populate(self, populate, gfns, layout):
        border = min(max(gfns.start, 1024), gfns.stop)
        populate(range(gfns.start, border), 0, Mem.EXACT)
        populate(range(border, gfns.stop), 0, Mem.COALESCE)
""",
    "house_engine": """
import sys

from twofold.guest.unicorn_engine import UnicornSession

class Counting(UnicornSession):
    '''Unicorn, which says in the end how many accesses it has made.'''

    def close(self):
        print(f"counted: {len(self.accesses())}", file=sys.stderr)
        super().close()
""",
    "house_paging": """
from twofold.formats.status import FORBIDDEN, OK
from twofold.formats.walk_state import WRITE
from twofold.paging import Hap

class ReadOnly(Hap):
    '''HAP, in which no guest may write anything.'''

    name = "read-only"

    def translate(self, space, address, access, out_steps):
        status, count, maddr, _ = super().translate(space, address, access, out_steps)
        return FORBIDDEN if status == OK and access == WRITE else status, count, maddr, 0
""",
    "house_dump": """
import os
import struct

import twofold as tf

class Frames:
    def __init__(self, path):
        self.file = path.open("rb")

    def read(self, mfn):
        content = os.pread(self.file.fileno(), 4096, 4096 * (mfn + 1))
        return content if len(content) == 4096 else None

class Flat:
    '''Memory as it is, behind a frame that says where the tables begin.'''

    name = "flat"

    def knows(self, start):
        return start.startswith(b"HOUSEDMP")

    def open(self, path):
        frames = Frames(path)
        _, root, count = struct.unpack("<8sQQ", frames.file.read(24))
        return tf.Dump(frames, count, (tf.DumpRoot(root, "npt"),), release=frames.file.close)
""",
}
ENTRY_POINTS = """
[twofold.designs]
house = house_design:House

[twofold.engines]
counting = house_engine:Counting

[twofold.paging]
read-only = house_paging:ReadOnly

[twofold.dumps]
flat = house_dump:Flat
"""
RUN = ("run", "gups", "--size", "1GiB", "--guest", "64MiB", "--steps", "20")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the four modules, and the metadata that an installer would have written."""
    folder = tmp_path_factory.mktemp("site")
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(source)
    metadata = folder / "house-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: house\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture
def twofold_with(package, tmp_path):
    """The command line in a process of its own that finds the package."""

    def call(*argv):
        code = f"import sys; sys.path.insert(0, {str(package)!r}); from twofold.cli import main; main()"
        command = [sys.executable, "-c", code, *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    return call


def test_a_design_is_built_and_compared(twofold_with):
    done = twofold_with("build", "--size", "1GiB", "--guest", "64MiB", "--design", "small,house", "--json")
    assert done.returncode == 0, done.stderr
    assert "house" in done.stdout
    compared = twofold_with(
        *("compare", "--size", "1GiB", "--guest", "64MiB", "--designs", "small,house", "--workload", "gups"),
        *("--guest-pages", "4K", "--accesses", "2000", "--repeat", "1", "--json", "-q"),
    )
    assert compared.returncode == 0, compared.stderr
    rows = {row["design"]: row for row in json.loads(compared.stdout)["rows"]}
    assert rows["house"]["leaves"]["9"] > 0
    assert rows["house"]["leaves"]["0"] >= 1024
    assert rows["house"]["answer"] == rows["small"]["answer"]


def test_an_engine_executes_and_counts(twofold_with):
    own, other = twofold_with(*RUN, "--engine", "counting", "--json"), twofold_with(*RUN, "--json")
    assert own.returncode == other.returncode == 0, own.stderr
    assert json.loads(own.stdout) == json.loads(other.stdout)
    assert f"counted: {json.loads(own.stdout)['accesses']}" in own.stderr.splitlines()
    assert "counted" not in other.stderr


def test_a_paging_mode_refuses_every_write(twofold_with):
    done = twofold_with(*RUN, "--paging", "read-only")
    assert done.returncode == 1
    assert "it wrote gva" in done.stdout + done.stderr
    assert twofold_with(*RUN).returncode == 0


def test_a_dump_is_opened_by_the_reader_that_knows_it(twofold_with, tmp_path):
    path = tmp_path / "memory.img"
    with Machine("16MiB") as machine:
        domain = machine.create_domain("4MiB", options=DomainOptions(layout="flat", table_pool=8))
        build(domain, "small")
        with path.open("wb") as file:
            file.write(struct.pack("<8sQQ", b"HOUSEDMP", domain.p2m.root, machine.frames))
            for mfn, frames in zip(*(runs.tolist() for runs in domain.pool.runs), strict=True):
                file.seek(FRAME_BYTES * (mfn + 1))
                file.write(machine.arena.read(mfn * FRAME_BYTES, frames * FRAME_BYTES))
        leaves, tables = sum(domain.p2m.leaves().values()), domain.p2m.tables
    done = twofold_with("audit", path, "--json", "-q")
    assert done.returncode == 0, done.stderr
    (audited,) = json.loads(done.stdout)["tables"]
    assert (audited["report"]["leaves"], audited["report"]["tables"]) == (leaves, tables)
    assert not audited["report"]["found"]


def test_each_is_named_where_another_is_unknown(twofold_with):
    for option, names in (
        (("build", "--size", "1GiB", "--design", "no"), "opportunistic, house"),
        ((*RUN, "--engine", "no"), "unicorn, counting"),
        ((*RUN, "--paging", "no"), "hap, read-only"),
        (("audit", __file__, "--reader", "no"), "raw-pages, table-array, flat"),
    ):
        done = twofold_with(*option)
        assert done.returncode in {2, 3}
        assert names in done.stderr
