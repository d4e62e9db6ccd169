"""What the command line refuses before it begins, and how errors name what was typed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from every_option import commands

from twofold.cli.app import app
from twofold.errors import FormatError
from twofold.files import check_apart
from twofold.freemaps import FreeMap
from twofold.trace import AREA_BASE, Trace, convert_trace

HOST = ("--size", "256MiB", "--guest", "16MiB")
QUICK = ("compare", *HOST, "--workload", "stream", "--guest-pages", "4K", "--accesses", "50", "--repeat", "1")


# -- files ------------------------------------------------------------------------------------------------------


def test_every_command_is_guarded():
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    callbacks = [command.callback for group in groups for command in group.registered_commands]
    assert len(callbacks) == len(commands()) > 10
    assert all(callback.__wrapped__ for callback in callbacks)


def test_a_conversion_over_its_own_trace_leaves_it_whole(twofold):
    text = b"gva,kind\n0x1000,load\nbroken\n"
    (twofold.folder / "b.csv").write_bytes(text)
    done = twofold("trace", "convert", "b.csv", "b.csv")
    assert (done.code, done.line) == (3, "twofold: b.csv: is read by TRACE and would be overwritten by OUTPUT")
    assert (twofold.folder / "b.csv").read_bytes() == text
    with pytest.raises(FormatError, match="would be overwritten by target"):
        convert_trace(twofold.folder / "b.csv", str(twofold.folder / "b.csv"))
    assert (twofold.folder / "b.csv").read_bytes() == text


def test_an_option_is_named_by_the_name_that_was_typed(twofold):
    for name in ("-o", "--output"):
        done = twofold(*QUICK, "--report", "new", name, "./new")
        assert done.line == f"twofold: new: is what both {name} and --report would write; give two names"
    assert twofold.files() == []


def test_what_a_scenario_file_names_is_not_written_over(twofold):
    FreeMap.synthetic("64MiB").save(twofold.folder / "a.twohost")
    (twofold.folder / "mine.toml").write_text("no profile")
    (twofold.folder / "s.toml").write_text('[host]\nsnapshot = "a.twohost"\n')
    before = (twofold.folder / "a.twohost").read_bytes()
    done = twofold("compare", "--scenario", "s.toml", "--report", "a.twohost")
    assert (done.code, done.out) == (3, "")
    assert done.line == ("twofold: a.twohost: is read by host.snapshot in s.toml and would be overwritten by --report")
    assert (twofold.folder / "a.twohost").read_bytes() == before


def test_standard_output_and_a_page_are_not_one_file(twofold):
    path = twofold.folder / "both"
    twofold.start(*QUICK, "--report", "both", stdout=path)
    assert "is what both --report and standard output would write" in twofold.finish().line
    assert path.read_bytes() == b""


def test_standard_input_is_an_input_too(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("gva\n0x1000\n")
    code = "from twofold.cli import main; main()"
    with path.open("rb") as stream:
        done = subprocess.run(
            [sys.executable, "-c", code, "trace", "convert", "-", str(path)],
            stdin=stream,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    assert done.stderr.endswith("t.csv: is read by TRACE and would be overwritten by OUTPUT\n")
    assert path.read_text() == "gva\n0x1000\n"


def test_a_trace_is_not_written_over_the_program_that_it_is_of(twofold):
    program = twofold.folder / "mine"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in ("mine", "./mine"):
        done = twofold("trace", "capture", "-o", "mine", "--", name, PATH=f"{twofold.folder}:/usr/bin:/bin")
        assert (done.code, done.out) == (3, "")
        assert "is read by COMMAND and would be overwritten by -" in done.line
    twofold.folder.joinpath("other.twotrace").touch()
    done = twofold("trace", "capture", "--", "./other", "other.twotrace")
    assert "is read by COMMAND and would be overwritten by --output" in done.line
    assert program.read_text() == "#!/bin/sh\n"


def test_a_workload_is_no_file_though_one_has_its_name(twofold):
    (twofold.folder / "gups").write_text("a result of before")
    argv = ("curve", "gups", "--footprint", "64KiB", "--accesses", "10", "--report", "gups", "-q")
    assert twofold(*argv).code == 0
    assert "<html" in (twofold.folder / "gups").read_text()


def test_files_are_apart_whether_they_exist_or_not(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    check_apart({"-a": one, "-b": other}, [("-c", tmp_path)])
    (tmp_path / "link").symlink_to("one")
    for path in (one, tmp_path / "link", tmp_path / "." / "x" / ".." / "one"):
        with pytest.raises(FormatError, match="-a and -b"):
            check_apart({"-a": one, "-b": path}, [])
    one.touch()
    other.hardlink_to(one)
    with pytest.raises(FormatError, match="read by -c and would be overwritten by -a"):
        check_apart({"-a": one}, [("-c", other)])
    check_apart({"-a": Path("/dev/null"), "-b": Path("/dev/null")}, [("-c", Path("/dev/null"))])


# -- what was typed ---------------------------------------------------------------------------------------------

NAMED = [
    (("build", *HOST, "--design", "smal"), "--design: unknown design 'smal'; did you mean 'small'? known are small,"),
    ((*QUICK, "--workload", "streem"), "--workload: unknown workload 'streem'; did you mean 'stream'? known are gups"),
    ((*QUICK, "--cpu", "zen33"), "--cpu: unknown CPU 'zen33'; did you mean 'zen3'? known are barcelona,"),
    ((*QUICK, "--behaviour", "xen4.17"), "--behaviour: unknown behaviour 'xen4.17'; did you mean 'xen-4.17'? known"),
    ((*QUICK, "--layout", "PVH"), "--layout: unknown layout 'PVH'; did you mean 'pvh'? known are"),
    ((*QUICK, "--host-paging", "4level"), "--host-paging: unknown paging mode '4level'; did you mean '4-level'?"),
    ((*QUICK, "--host-paging", "3-level"), "--host-paging: unknown paging mode '3-level'; known are 4-level,"),
    ((*QUICK, "--table-format", "ept5"), "--table-format: unknown table format of a 4-level machine 'ept5'; did you"),
    ((*QUICK, "--guest-mode", "pea"), "--guest-mode: unknown guest mode 'pea'; did you mean 'pae'?"),
    ((*QUICK, "--paging", "hpa"), "--paging: unknown paging mode 'hpa'"),
    ((*QUICK, "--page-sizes", "4K,2MB"), "--page-sizes: size '2MB' could be of 1000 or of 1024: write 2M"),
    ((*QUICK, "--guest-pages", "8K"), "--guest-pages: size '8K' is no page size; known are 4K, 2M, 4M, 1G"),
    ((*QUICK, "--guest", "2GB"), "--guest: size '2GB' could be of 1000 or of 1024: write 2GiB"),
    ((*QUICK, "--guest", "5000"), "--guest: size '5000' is not a multiple of 4 KiB"),
    ((*QUICK, "--guest", "0.3KiB"), "--guest: size '0.3KiB' is not a whole number of bytes"),
    ((*QUICK, "--footprint", "3145728"), "--footprint: size '3145728' is no footprint: a power of two of at least"),
    (("compare", "--size", "1Qi"), "--size: size '1Qi' is no size; write it like 4GiB, 512M or 0x1000"),
    ((*QUICK, "--exact", "0:2MiB"), "--exact: '0:2MiB' is no range; write START:SIZE:PAGE, like 64MiB:2MiB:4K"),
    ((*QUICK, "--exact", "0:2MiB:3M"), "--exact: size '3M' is no page size; known are"),
    ((*QUICK, "--free", "120%"), "--free: '120%' is no share, a number from 0 to 1"),
    ((*QUICK, "--fragmentation", "lots"), "--fragmentation: 'lots' is no share, a number from 0 to 1"),
    (("walk", "+0xffffffffffff", *HOST), "ADDRESS: '+0xffffffffffff' is not an address of 48 bits"),
    (("compare", "--size", "1GiB", "--guest", "4K"), "--guest: size '4K' is too little memory"),
    (("curve", "gups", "--max-memory", "1", "--accesses", "10"), "--max-memory: size '1' is too little memory"),
    (("build", "--host", "./no.twohost"), "--host: no.twohost: cannot be read: No such file"),
    ((*QUICK, "--cpu", "zen3,no.toml"), "--cpu: no.toml: cannot be read: No such file"),
    (("walk", "12Q", *HOST), "ADDRESS: size '12Q' is no size"),
    (("walk", *HOST, "--access", "raed"), "--access: unknown access 'raed'; did you mean 'read'?"),
    (("cpus", "zen22"), "NAME: unknown CPU 'zen22'; did you mean 'zen2'?"),
    (("trace", "info", "t", "--from", "champsin"), "--from: unknown trace format 'champsin'; did you mean 'champsim'?"),
    (("audit", "t", "--format", "etp"), "--format: unknown table format 'etp'; did you mean 'ept'?"),
    (("simulate", "t", *HOST, "--placement", "scatered"), "--placement: unknown placement 'scatered'; did you mean"),
    (("run", "", *HOST), "'': is no file and no workload; known are gups"),
    (("build", "--host", ""), "--host: '': is no file name"),
    (("run", "gusp", *HOST), "gusp: is no file and no workload; did you mean 'gups'?"),
    (("curve", "./gups"), "./gups: is no file and no workload; did you mean 'gups'?"),
]


@pytest.mark.parametrize(("argv", "line"), NAMED, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_an_error_names_option_value_and_what_is_allowed(twofold, argv, line):
    done = twofold(*argv)
    assert (done.code, done.out) == (3, "")
    assert done.line.startswith(f"twofold: {line}")
    assert "field" not in done.line


def test_a_field_of_a_file_is_named_as_it_is_written_there(twofold):
    (twofold.folder / "s.toml").write_text(
        'repeat = 1\n[host]\nsize = "1GiB"\n[[modes]]\n[[modes]]\nhost_pagin = "pae"\n'
    )
    done = twofold("compare", "--scenario", "s.toml", "--guest", "64MiB")
    assert done.line.startswith(
        "twofold: s.toml: field host_pagin of [[modes]] number 2: is unknown; did you mean 'host_paging'? known are"
    )


def test_the_file_is_blamed_for_what_it_says_and_the_option_for_what_was_typed(twofold):
    (twofold.folder / "s.toml").write_text('designs = ["smal"]\naccesses = 0\n[host]\nsize = "1GiB"\n')
    argv = ("compare", "--scenario", "s.toml")
    assert twofold(*argv).line.startswith(
        "twofold: s.toml: field designs number 1: unknown design 'smal'; did you mean"
    )
    assert twofold(*argv, "--designs", "smal").line.startswith("twofold: --designs: unknown design 'smal'")
    assert twofold(*argv, "--designs", "small").line.startswith("twofold: s.toml: field accesses: 0 is no whole number")


# -- options without effect -------------------------------------------------------------------------------------

GIVEN = ("--host", "fragmented", "--guest", "16MiB")
NO_EFFECT = [
    (("build", *GIVEN, "--free", "60%"), 3, "--free: has no effect on a host that is given"),
    (("build", *GIVEN, "--fragmentation", "0.4"), 3, "--fragmentation: has no effect on a host that is given"),
    (("build", "--free", "60%"), 3, "--free: has no effect on a host that is given"),
    (("build", *GIVEN, "--packing", "contiguous"), 3, "--packing: has no effect here"),
    (("build", *HOST, "--packing", "scattered"), 3, "--packing: has no effect here"),
    (("build", *HOST, "--host", "fresh"), 3, "--host, --size: give either"),
    (("build", *HOST, "--design", "small", "--fallback", "builder"), 2, "--fallback has no effect without the design"),
    (("compare", *GIVEN, "--repeat", "1"), 3, "--repeat: has no effect"),
    (("compare", "--guest", "16MiB", "--repeat", "3"), 3, "--repeat: has no effect"),
    ((*QUICK, "--json", "--all"), 2, "--all has no effect on --json and --csv"),
    ((*QUICK, "--csv", "--assumptions", "--all"), 2, "--all and --assumptions have no effect"),
    (("curve", "gups", "--json", "--csv"), 2, "give one of --json and --csv"),
    (("curve", "gups", "--from", "csv"), 2, "--from has no effect on a workload"),
    (
        ("curve", "t.twotrace", "--footprint", "1MiB", "--seed", "0"),
        2,
        "--footprint and --seed have no effect on a trace",
    ),
]


@pytest.mark.parametrize(
    ("argv", "code", "problem"), NO_EFFECT, ids=lambda value: value[:30] if isinstance(value, str) else ""
)
def test_an_option_without_effect_is_refused(twofold, argv, code, problem):
    Trace.of(AREA_BASE + np.arange(10)).save(twofold.folder / "t.twotrace")
    done = twofold(*argv)
    assert (done.code, done.out) == (code, "")
    assert problem in done.line


def test_an_option_that_names_a_host_takes_the_place_of_what_a_file_says_of_its_own(twofold):
    (twofold.folder / "s.toml").write_text(
        'repeat = 3\naccesses = 50\nworkloads = ["stream"]\nguest_pages = ["4K"]\n'
        '[host]\nsize = "256MiB"\nfree = 0.5\n[guest]\nmemory = "16MiB"\n'
    )
    assert twofold("compare", "--scenario", "s.toml", "--host", "fresh", "-q").code == 0
    (twofold.folder / "s.toml").write_text('repeat = 3\n[host]\nsnapshot = "fresh"\n')
    assert "s.toml: field repeat: has no effect" in twofold("compare", "--scenario", "s.toml").line
    (twofold.folder / "s.toml").write_text('[host]\nsnapshot = "fresh"\nfree = 0.6\n')
    assert "s.toml: field host.free: has no effect" in twofold("compare", "--scenario", "s.toml").line


def test_a_comparison_without_any_figure_ends_with_1_and_the_reason_and_writes_nothing(twofold):
    argv = (*QUICK[:7], "--guest-pages", "1G", "--accesses", "50", "--repeat", "1", "-o", "r.txt", "--report", "r.html")
    done = twofold(*argv)
    assert (done.code, done.out) == (1, "")
    assert done.line == "twofold: every cell is n/a, so nothing is written: a 1G page is larger than the area of 8MiB"
    assert twofold.files() == []


@pytest.mark.parametrize("command", [("simulate", "t", *HOST), ("curve", "t")], ids=["simulate", "curve"])
def test_a_warm_up_that_leaves_nothing_is_refused(twofold, command):
    Trace.of(AREA_BASE + np.arange(100) * 8).save(twofold.folder / "t")
    assert twofold(*command, "--warmup", "99").code == 0
    for warmup in ("100", "101", str(2**40)):
        done = twofold(*command, "--warmup", warmup)
        assert (done.code, done.out) == (3, "")
        assert done.line == f"twofold: --warmup: {warmup} accesses leave none of the trace's loads and stores to count"


def test_an_empty_name_is_not_the_folder_that_the_command_runs_in(twofold):
    done = twofold("audit", "")
    assert (done.code, done.out) == (2, "")
    assert "'' is no name of a file" in done.line
