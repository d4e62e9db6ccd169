"""The modes of hypervisor, domain and guest on the command line."""

import json

import numpy as np
import pytest

from twofold.trace import AREA_BASE_32, Trace

HOST = ("--size", "1GiB", "--guest", "64MiB")
QUICK = ("compare", *HOST, "--workload", "stream", "--guest-pages", "4K", "--accesses", "300", "--repeat", "1")


@pytest.mark.medium
def test_lists_are_sides_of_the_comparison(twofold):
    done = twofold(*QUICK, "--host-paging", "4-level,5-level", "--table-format", "npt,ept", "--json")
    document = json.loads(done.out)
    assert [mode["host_paging"] + mode["table_format"] for mode in document["scenario"]["modes"]] == [
        "4-levelnpt",
        "4-levelept",
        "5-levelnpt",
        "5-levelept",
    ]
    assert len(document["rows"]) == 4 * 3
    assert {row["mode"] for row in document["rows"]} == {"4-level", "4-level ept", "5-level", "5-level ept"}


@pytest.mark.medium
def test_options_win_over_the_modes_of_a_file(twofold):
    (twofold.folder / "s.toml").write_text(
        '[[modes]]\nhost_paging = "pae"\npage_sizes = "4K"\n[[modes]]\nhost_paging = "2-level"\n'
    )
    base = ("compare", "--scenario", "s.toml", *QUICK[1:], "--json")
    modes = json.loads(twofold(*base, "--guest-mode", "2-level").out)["scenario"]["modes"]
    assert [(mode["host_paging"], mode["guest_mode"]) for mode in modes] == [("pae", "2-level"), ("2-level", "2-level")]
    modes = json.loads(twofold(*base, "--host-paging", "pae", "--page-sizes", "4K,2M").out)["scenario"]["modes"]
    assert [(mode["host_paging"], mode["page_sizes"]) for mode in modes] == [("pae", None)]


@pytest.mark.medium
def test_build_counts_the_leaves_that_the_mode_has(twofold):
    done = twofold("build", *HOST, "--host-paging", "2-level,pae", "--design", "opportunistic", "--json")
    designs = json.loads(done.out)["designs"]
    assert designs["opportunistic (2-level)"]["leaves"] == {"0": 17, "10": 16}
    assert designs["opportunistic (pae)"]["leaves"] == {"0": 17, "9": 32}
    table = twofold("build", *HOST, "--host-paging", "2-level,pae", "--design", "opportunistic").out
    assert " 4M " in table
    assert " 2M " in table


@pytest.mark.medium
@pytest.mark.parametrize(
    ("host", "guest", "reads"), [("pae", "pae", 15), ("2-level", "2-level", 8), ("4-level", "pae", 19)]
)
def test_walk_takes_as_many_reads_as_the_mode_has(twofold, host, guest, reads):
    argv = ("walk", "+0x1000", *HOST, "--design", "small", "--host-paging", host, "--guest-mode", guest)
    assert "is maddr 0x" in (out := twofold(*argv).out)
    assert f"gva {AREA_BASE_32 + 0x1000:#x}" in out
    assert f"{reads} table reads" in out


@pytest.mark.medium
def test_run_runs_the_program_of_the_guests_width(twofold):
    narrow, wide = (
        json.loads(twofold("run", "gups", *HOST, "--steps", "50", "--json", *mode).out)
        for mode in (("--host-paging", "pae"), ())
    )
    assert narrow["exit_code"] == wide["exit_code"] == 0
    assert narrow["accesses"] > wide["accesses"], "each word in two halves"


@pytest.mark.medium
def test_simulate_prices_a_trace_in_a_32_bit_guest(twofold):
    Trace.of(AREA_BASE_32 + np.arange(1000) * 4096).save(twofold.folder / "t.twotrace")
    argv = ("simulate", "t.twotrace", *HOST, "--cpu", "none", "--design", "small", "--json")
    reads = [
        json.loads(twofold(*argv, "--host-paging", host).out)["ratios"]["reads per walk"] for host in ("pae", "2-level")
    ]
    assert reads == [15, 8]


WRONG = [
    ((*QUICK, "--host-paging", "3-level"), "--host-paging: unknown paging mode '3-level'"),
    ((*QUICK, "--host-paging", "pae", "--guest-mode", "4-level"), "a pae machine cannot hold a 4-level guest"),
    ((*QUICK, "--host-paging", "2-level", "--table-format", "ept"), "unknown table format of a 2-level machine 'ept'"),
    ((*QUICK, "--paging", "pv"), "--paging: unknown paging mode 'pv'"),
    ((*QUICK, "--host-paging", "2-level", "--page-sizes", "4K,2M"), "size '2M' is no page size of a 2-level table"),
    (("run", "gups", *HOST, "--host-paging", "pae", "--guest-pages", "1G"), "size '1G' is no page size of a pae guest"),
    (("build", *HOST, "--guest-mode", "5-level"), "unknown guest mode '5-level'"),
    (("build", "--size", "8GiB", "--guest", "5GiB", "--host-paging", "pae"), "make the guest smaller"),
]


@pytest.mark.medium
@pytest.mark.parametrize(("argv", "problem"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_go_together_is_refused_in_one_line(twofold, argv, problem):
    done = twofold(*argv)
    assert (done.code, done.out) == (3, "")
    assert problem in done.line


@pytest.mark.medium
@pytest.mark.parametrize("command", [("run", "gups"), ("walk",), ("simulate", "t.twotrace")])
def test_commands_about_one_guest_take_one_mode(twofold, command):
    done = twofold(*command, *HOST, "--host-paging", "pae,4-level")
    assert (done.code, done.out) == (2, "")
    assert "one mode" in done.line
