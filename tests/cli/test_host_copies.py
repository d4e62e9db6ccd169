"""A copy of another host's /proc/buddyinfo where a command takes a host: told by what it holds, pages of any size."""

import json

import pytest

NODES = "".join(f"Node {node}, zone   Normal {'0 ' * 10}255\n" for node in range(2))
GUEST = ("--guest", "256MiB", "--layout", "flat", "--design", "toolstack")


@pytest.fixture
def copy(twofold):
    path = twofold.folder / "fleet-7.txt"
    path.write_text(NODES)
    return path


def test_host_show_takes_a_copy_and_keeps_its_nodes_apart(twofold, copy):
    done = twofold("host", "show", copy)
    assert (done.code, done.err) == (0, "")
    assert "1.992GiB of 4GiB free, from buddyinfo" in done.out
    assert "aligned free extents: 2M: 1,020, 1G: 0\n" in done.out
    assert "note: blocks are counted in pages of 4KiB, as no other size was given" in done.out
    assert "never over the border of one of the 2 zones" in done.out
    large = twofold("host", "show", copy, "--page-kib", "64")
    assert "31.88GiB of 64GiB free" in large.out
    assert "note: blocks are counted in pages of 64KiB, as was given" in large.out


def test_a_guest_is_built_on_a_copy_and_on_its_saved_scenario(twofold, copy):
    done = twofold("build", "--host", copy, *GUEST, "--json")
    assert (done.code, done.err) == (0, "")
    (built,) = json.loads(done.out)["designs"].values()
    assert built["leaves"] == {"0": 0, "9": 128, "18": 0}
    (twofold.folder / "s.toml").write_text(
        f'designs = ["small"]\nworkloads = ["gups"]\nguest_pages = ["4K"]\naccesses = 100\n'
        f'[host]\nsnapshot = "{copy.name}"\npage_kib = 64\n[guest]\nmemory = "64MiB"\n'
    )
    done = twofold("compare", "--scenario", "s.toml", "--json", "-q")
    assert json.loads(done.out)["host"]["free_bytes"] == 2 * 255 * (64 << 20), done.err


WRONG = [
    (("--page-kib", "48"), "'48' is no kernel's page: a power of two from 4 to 256"),
    (("--page-kib", "128", "--packing", "loose"), "unknown packing 'loose'"),
]


@pytest.mark.parametrize(("argv", "problem"), WRONG)
def test_a_page_that_no_kernel_has_is_one_line(twofold, copy, argv, problem):
    done = twofold("build", "--host", copy, *GUEST, *argv)
    assert (done.code, done.out) == (3, "")
    assert problem in done.line


@pytest.mark.parametrize("page_kib", ["0", "-64", "512", "6_4", "many"])
def test_a_page_that_is_no_number_of_a_page_is_one_line(twofold, copy, page_kib):
    done = twofold("build", "--host", copy, *GUEST, "--page-kib", page_kib)
    assert (done.code, done.out) == (2, "")
    assert f"'--page-kib': '{page_kib}' is no whole number from 4 to 256" in done.line


@pytest.mark.parametrize("host", [("--host", "fresh"), ("--host", "this"), ("--size", "1GiB"), ()])
def test_a_page_without_a_copy_is_one_line(twofold, host):
    done = twofold("build", *host, *GUEST, "--page-kib", "64")
    assert (done.code, done.out) == (3, "")
    assert "--page-kib: has no effect here; it is for a copy of /proc/buddyinfo" in done.line


def test_a_saved_map_has_no_page_of_its_own(twofold):
    from twofold.freemaps import FreeMap

    FreeMap.synthetic("1GiB").save(twofold.folder / "a.twohost")
    done = twofold("host", "show", "a.twohost", "--page-kib", "4")
    assert (done.code, done.out) == (3, "")
    assert done.line.startswith("twofold: a.twohost: is a saved map, in 4 KiB frames")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (NODES[:-3], "ends inside its last line"),
        (NODES[:-8] + "\n", "lines of different lengths: line 2 has 8 orders, those before it 11"),
        (NODES + NODES, "line 3 counts node 0, zone 'Normal' again"),
        ("$ cat /proc/buddyinfo\n" + NODES, "line 1 is no zone"),
        ("MemFree: 1 kB\n", "is neither a saved free map nor a copy of /proc/buddyinfo"),
        ("", "is neither a saved free map nor a copy of /proc/buddyinfo"),
    ],
)
def test_a_damaged_copy_is_one_line(twofold, copy, content, problem):
    copy.write_text(content)
    for argv in (("host", "show", copy), ("build", "--host", copy, *GUEST)):
        done = twofold(*argv)
        assert (done.code, done.out) == (3, "")
        assert problem in done.line
        assert "fleet-7.txt" in done.line
