"""What a file says is text: hostile letters through each reader, and each command that reads a file, do nothing.

Files and commands are found, not listed: a command that reads a file from now on is tried too.
"""

import ast
import inspect
import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from every_option import beside, commands
from hypothesis import given
from hypothesis import strategies as st

import twofold as tf
from twofold import errors
from twofold.cli import app
from twofold.cli.foreground import Bar
from twofold.domain import DomainOptions, Machine, replay
from twofold.dumps import audit_file
from twofold.errors import MOST_IN_LINE, TwofoldError, quoted, shown, some
from twofold.freemaps import FreeMap, map_file
from twofold.machine.journal import journaled
from twofold.report.terminal import audit_view, render, replay_view
from twofold.report.words import markup
from twofold.study.csv_text import cell_of, csv_text
from twofold.trace import inspect_trace
from twofold.trace.layout import Header

HOSTILE = {
    "title": "\x1b]0;PWNED\x07",
    "screen": "\x1b[2J\x1b[31m",
    "csi": "\x9b31m",
    "lines": "a\nb\r\nc\x0b\x0c\x85d\u2028e\u2029f",
    "backwards": "\u202eabc\u202c\u2066d\u2069\u200f\u061c",
    "without shape": "a\u200bb\u2060c\ufeffd\U000e0041",
    "surrogate": "\udc80a\ud800",
    "nul": "a\0b\x7f\x08",
    "tab": "\t=1+1",
    "private": "\ue000\U0010ffff",
}
ALL = "".join(HOSTILE.values())
LONG = "x" * 1_000_000


def is_harmless(text):
    """Whether nothing in a text is for a terminal to act on, but the ends of its lines."""
    return all(line.replace("\xa0", " ").isprintable() for line in text.split("\n"))


# -- the one function -------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec=None), max_size=50))
def test_whatever_is_shown_is_one_line_of_bounded_length(text):
    for line in (shown(text), shown(text, 10), quoted(text), some([text])):
        assert is_harmless(line)
        assert "\n" not in line
        assert len(line) <= MOST_IN_LINE + 3
    assert len(shown(text, 10)) <= 13


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_escaped_and_what_is_plain_stays(name):
    assert is_harmless(shown(HOSTILE[name]))
    assert "\\" in shown(HOSTILE[name])
    plain = "Größe 漢字 a\xa0b -> \\x1b"
    assert shown(plain) == plain


def test_what_is_long_is_cut_and_of_many_names_the_first_are_said():
    assert len(shown(LONG)) == MOST_IN_LINE + 3
    assert len(quoted(LONG)) < 100
    assert len(quoted(LONG.encode())) < 100
    assert some(f"d{number}" for number in range(30_000)).endswith("d7 and 29992 more")


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TwofoldError)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_one_harmless_line(kind):
    for text in (ALL, LONG):
        fillers = {"str": text, "int": 5, "object": text, "tuple[str, ...]": (text, "b")}
        fillers |= {"tuple[str | int, ...]": (text, 1), "int | None": 5}
        given_ = [
            fillers[str(each.annotation if isinstance(each.annotation, str) else each.annotation.__name__)]
            if not str(each.annotation).startswith("tuple")
            else (text, "b")
            for each in list(inspect.signature(kind).parameters.values())
            if each.annotation != (int | None)
        ]
        line = str(kind(*given_))
        assert is_harmless(line)
        assert "\n" not in line
        assert len(line) <= MOST_IN_LINE + 3


# -- where text comes out ---------------------------------------------------------------------------------------


def test_no_command_writes_to_a_stream_by_itself():
    """`documents` does, with `shown`; `terminal` too; `app` says version and help, `first_use` what kernels say."""
    allowed = {"documents.py", "app.py", "first_use.py"}
    found = set()
    for path in Path(app.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "sys.stderr.write",
                "sys.stdout.write",
                "print",
                "typer.echo",
            }:
                found.add(path.name)
    assert found <= allowed


def test_no_page_escapes_by_another_function():
    root = Path(app.__file__).parents[1] / "report"
    with_html = {path.name for path in root.glob("*.py") if "from html import" in path.read_text(encoding="utf-8")}
    assert with_html == {"words.py"}
    for name, text in HOSTILE.items():
        assert is_harmless(markup(f"<b>{text}</b>")), name
        assert "<" not in markup(f"<b>{text}</b>")


def test_a_progress_bar_shows_text(capsys):
    with Bar(quiet=False) as bar:
        bar.update(f"[bold]{ALL}[/]", 0, 0)
        bar.update(f"[/]{ALL}", 1, 2)
        bar.count(f"[/red]{ALL}")
    said = capsys.readouterr().err
    assert is_harmless(said)
    assert said.startswith("[bold]")


@given(st.lists(st.text(st.characters(codec=None), max_size=20), max_size=5))
def test_no_cell_of_a_csv_is_a_formula_or_breaks_its_line(texts):
    frame = pl.DataFrame({"text": [cell_of(text) for text in texts], "number": [-1.5] * len(texts)})
    rows = csv_text(frame).splitlines()
    assert len(rows) == len(texts) + 1
    assert all(is_harmless(row) for row in rows)
    for text in pl.read_csv(io.StringIO("\n".join(rows)), schema_overrides={"text": pl.String})["text"]:
        assert (text or "").lstrip()[:1] not in {"=", "+", "-", "@", "\t", "\r"}


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "=cmd|' /C calc'!A0"]
)
def test_a_cell_that_begins_as_a_formula_is_marked_as_text(text):
    row = csv_text(pl.DataFrame({"name": [text], "number": [-1]})).splitlines()[1]
    assert row.strip('"')[0] in {"'", "\\"}
    assert row.endswith(",-1"), "a number stays one"


# -- what is read -----------------------------------------------------------------------------------------------


def forged_journal(path, name="web", method="pause", args=()):
    """Write a journal whose domain has a name, and which calls whatever it likes."""
    fake = type("Domain", (), {"anything": journaled(lambda *_: None)})
    fake.anything.__name__ = method
    with Machine("64MiB", journal=path) as machine:
        machine.create_domain("8MiB", name, DomainOptions(layout="flat"))
        made = fake()
        made.gate = machine.gate
        machine.journal.watch(1, made)
        made.anything(*args)
    return path


def saved_machine(path, name):
    with Machine("64MiB") as machine:
        machine.create_domain("8MiB", "NAME", DomainOptions(layout="flat", table_pool=10))
        machine.save(path)
    columns = {"about": {"twofold-machine": 1, "paging": "4-level", "frames": 16384}}
    columns["about"]["domains"] = [{"domid": 1, "name": name, "table_format": "npt", "root": 5}]
    about = np.frombuffer(json.dumps(columns["about"]).encode(), np.uint8)
    none = np.zeros((0,), np.uint64)
    np.savez(
        path,
        about=about,
        owned=np.zeros((0, 4), np.uint64),
        m2p_runs=np.zeros((0, 2), np.uint64),
        m2p=none,
        free_blocks=np.zeros((0, 2), np.uint64),
        mfn=none,
        pages=np.zeros((0, 4096), np.uint8),
    )
    return path.with_name(f"{path.name}.npz")


def snapshot(path, text):
    free = FreeMap.synthetic("64MiB")
    fields = free._scalars() | {"source": text, "notes": [text], "assumption": text, "exact": False}
    path.write_bytes(map_file.pack(fields, free.starts, free.frames))
    return path


def trace(path, text):
    tf.Trace.of(np.arange(100, dtype=np.uint64) * 4096 + (1 << 32)).save(path)
    content = bytearray(path.read_bytes())
    header = Header.decode(bytes(content[:4096]))
    content[:4096] = Header(header.accesses, header.parts, text, (text,)).encode()
    path.write_bytes(content)
    return path


def hostile_files(folder, text):
    """Write a file of each kind that says the text wherever it can."""
    plain = text.encode("utf-8", "surrogatepass")
    toml = json.dumps(text.encode("utf-8", "replace").decode())
    forged_journal(folder / "name.journal", shown(text) if "\ud800" in text else text)
    forged_journal(folder / "method.journal", method=shown(text)[:60] if "\ud800" in text else text[:60])
    saved_machine(folder / "name", text)
    np.savez(folder / "members.npz", mfn=np.zeros(1, np.uint64), tables=np.zeros((1, 512), np.uint64))
    snapshot(folder / "notes.twohost", text)
    trace(folder / "source.twotrace", text[:60])
    (folder / "header.csv").write_bytes(b"gva," + plain.replace(b"\n", b"") + b"\n1," + plain)
    (folder / "lines.lackey").write_bytes(b" L 1000,8\n L " + plain + b"\n")
    (folder / "buddyinfo").write_bytes(b"Node 0, zone " + plain + b" 1 2 3 4 5 6 7 8 9 1 1\n")
    (folder / "scenario.toml").write_text(f"{toml} = 1\nworkloads = [{toml}]\n", encoding="utf-8")
    (folder / "cpu.toml").write_text(f"name = {toml}\n{toml} = 2\n", encoding="utf-8")
    (folder / "plain").write_bytes(plain)


READING = [
    (command, parameter)
    for command in commands()
    for parameter in command.parameters
    if not parameter.info.writable and (command.hints[parameter.name] is Path or parameter.may_be_file is not None)
]


def test_commands_that_read_files_were_found():
    assert {command.name for command, _ in READING} >= {"audit", "replay", "trace info", "simulate", "compare", "curve"}


@pytest.mark.medium
@pytest.mark.parametrize(
    ("command", "parameter"), [pytest.param(*each, id=f"{each[0].name} {each[1].spelling}") for each in READING]
)
def test_no_command_lets_a_hostile_text_through(twofold, command, parameter):
    if command.name == "trace capture":
        pytest.skip("runs what it is given")
    hostile_files(twofold.folder, ALL)
    for path in sorted(twofold.folder.iterdir()):
        done = twofold(*command.argv(**beside(command, parameter) | {parameter.name: path.name}))
        assert is_harmless(done.out), (path.name, done.out)
        assert is_harmless(done.err), (path.name, done.err)
        assert "Traceback" not in done.err, (path.name, done.err)
        assert max(map(len, [*done.out.splitlines(), *done.err.splitlines(), ""])) < 3 * MOST_IN_LINE


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "surrogate"])
def test_a_domain_of_any_name_is_shown_after_its_replay(tmp_path, name):
    with Machine("64MiB", journal=tmp_path / "j") as machine:
        machine.create_domain("8MiB", HOSTILE[name] + LONG[:5000], DomainOptions(layout="flat"))
    replayed = replay(tmp_path / "j")
    text = render(replay_view(replayed))
    replayed.machine.close()
    assert is_harmless(text)
    assert max(map(len, text.splitlines())) < 2 * MOST_IN_LINE


@pytest.mark.parametrize("name", HOSTILE)
def test_a_trace_says_where_it_is_from_in_harmless_text(tmp_path, name):
    found, _ = inspect_trace(trace(tmp_path / "t", HOSTILE[name]))
    assert is_harmless(f"{found.source} {found.notes}")
    assert "\\" in found.source


@pytest.mark.parametrize("name", HOSTILE)
def test_a_saved_machine_names_no_domain_that_cannot_be_printed(tmp_path, name):
    with pytest.raises(tf.FormatError, match="cannot be printed") as caught:
        audit_file(saved_machine(tmp_path / "m", HOSTILE[name]))
    assert is_harmless(str(caught.value))


def test_a_domain_with_a_formula_or_markup_for_a_name_is_shown_as_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    with Machine("64MiB") as machine:
        machine.create_domain("8MiB", "[red]=1+1[/]<b>", DomainOptions(layout="flat", table_pool=10))
        machine.save(tmp_path / "m")
    assert "[red]=1+1[/]<b>" in render(audit_view(audit_file(tmp_path / "m")))
