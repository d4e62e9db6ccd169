"""What commands print for programs: one document, a version, and one rule for numbers (docs/json.md)."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_tree import NAMES, WITH_JSON

from twofold.trace import AREA_BASE, Trace

HOST = ("--size", "1GiB", "--guest", "64MiB")
DOCUMENT = Path(__file__).parents[2] / "docs" / "json.md"
WITHOUT = {"trace capture": "the program's own output goes there", "host snapshot": "prints nothing, writes a file"}
LARGEST = 2**53  # what a reader that has doubles alone still holds
CALLS = {
    "compare": (*HOST, "--workload", "stream", "--guest-pages", "4K", "--accesses", "300", "--repeat", "1"),
    "build": HOST,
    "run": ("gups", *HOST, "--steps", "20"),
    "simulate": ("t.twotrace", *HOST),
    "audit": ("m.twomachine",),
    "walk": ("+0x1234", *HOST),
    "replay": ("m.journal",),
    "curve": ("kv", "--footprint", "1MiB", "--accesses", "1000", "--ways", "4"),
    "workloads": (),
    "cpus": (),
    "host show": ("fragmented",),
    "trace convert": ("t.twotrace", "c.twotrace"),
    "trace info": ("t.twotrace",),
}


def documented():
    """Return {command: (version, keys)} of the page."""
    rows = re.findall(r"^\| `([a-z ]+)` \| (\d+) \| (.+?) \|", DOCUMENT.read_text(), re.MULTILINE)
    return {name: (int(version), set(re.findall(r"`(\w+)`", keys))) for name, version, keys in rows}


def values(part, path=""):
    """Yield (path, value) of everything in a document."""
    if isinstance(part, dict | list):
        for name, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield from values(value, f"{path}.{name}")
    else:
        yield path, part


@pytest.fixture
def files(twofold):
    """What the commands read."""
    Trace.of(AREA_BASE + (1 << 46) + np.uint64(4096) * np.arange(100, dtype=np.uint64)).save(
        twofold.folder / "t.twotrace"
    )
    argv = ("build", *HOST, "--design", "small", "--save", "m.twomachine", "--save-journal", "m.journal")
    assert twofold(*argv).code == 0


def test_every_command_that_prints_data_prints_json():
    assert set(NAMES) - set(WITH_JSON) == set(WITHOUT)
    assert set(WITH_JSON) == set(CALLS) == set(documented())


@pytest.mark.parametrize("name", CALLS)
def test_a_document_has_the_version_the_keys_and_the_numbers_that_the_page_says(twofold, files, name):
    done = twofold(*name.split(), *CALLS[name], "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    version, keys = documented()[name]
    assert found["version"] == version
    assert set(found) == keys | {"version"}
    for path, value in values(found):
        if isinstance(value, int):
            assert abs(value) < LARGEST, path
        if re.search(r"\.(gva|maddr|entry|lowest|highest|output|answer)$", path) and value is not None:
            assert re.fullmatch(r"0x[0-9a-f]+", value), path
        if re.search(r"\.(gfn|mfn|root|table|slot|level|accesses|leaves|\w*_bytes|\w*_frames)$", path):
            assert value is None or type(value) is int, path


def test_a_cpu_in_json_has_numbers_where_the_table_has_text(twofold):
    (cpu,) = json.loads(twofold("cpus", "zen3", "--json").out)["cpus"]
    assert (cpu["name"], cpu["l1_4k"]["entries"]) == ("zen3", 64)
    assert cpu["l1_4k"]["source"]
    several = json.loads(twofold("cpus", "--json").out)["cpus"]
    assert cpu in several
    assert len(several) > 3
    done = twofold("cpus", "z80", "--json")
    assert (done.code, done.out) == (3, "")


def test_a_finding_in_json_has_its_entry_in_hex(twofold):
    pages = np.zeros((4, 512), np.uint64)
    pages[:3, 0] = [mfn << 12 | 0x67 for mfn in (2, 3, 4)]
    pages[3, 5] = 0x3067
    levels, mfns = np.array([4, 3, 2, 1], np.uint8), np.arange(1, 5, dtype=np.uint64)
    np.savez(twofold.folder / "npt_pages.npz", mfn=mfns, level=levels, pages=pages.view(np.uint8))
    done = twofold("audit", "npt_pages.npz", "--json")
    assert done.code == 1
    (finding,) = json.loads(done.out)["tables"][0]["report"]["findings"]
    assert (finding["gfn"], finding["mfn"], finding["entry"]) == (5, 3, "0x3067")


def test_a_conversion_that_breaks_off_says_so_in_its_document(twofold):
    (twofold.folder / "t").write_text(" L 10,8\n S 20,8\ngarbage\n")
    for argv in (("convert", "t", "a.twotrace"), ("info", "t")):
        done = twofold("trace", *argv, "--from", "lackey", "--json")
        assert done.code == 3
        found = json.loads(done.out)
        assert found["accesses"] == 2
        assert "line 3" in found["problem"]
