"""What the documents say is run: all Python of every page; and every public name is shown in one of them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap

import documents
import pytest

import oracle
import twofold

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
LANGUAGES = {"", "c", "python", "sh", "text", "toml"}  # of fenced blocks; Python under another name would not be run
REPRODUCTIONS = (
    documents.ROOT / "docs" / "reproductions"
)  # run by tests/reproductions, which also reads what they print
OWN_PROGRAMS = documents.ROOT / "docs" / "programs.md"


def fences(text):
    """The fenced blocks of a text, in order: (language, lines without what all are indented by)."""
    return [(language, textwrap.dedent(code)) for _indent, language, code in FENCE.findall(text)]


def blocks_of(page, language):
    return [code for each, code in fences(page.read_text(encoding="utf-8")) if each == language]


WITH_PYTHON = [page for page in documents.PAGES if blocks_of(page, "python")]
PAGES = [pytest.param(page, id=page.name) for page in WITH_PYTHON if page.parent != REPRODUCTIONS]


def build(page, folder):
    """Write the C files that a page shows, each named in its first line, and make the programs as the page says."""
    sources = blocks_of(page, "c")
    if not sources:
        return
    oracle.require(None if shutil.which("gcc") else "gcc is not installed")
    for source in sources:
        (folder / re.match(r"/\* (\w+\.c): ", source)[1]).write_text(source, encoding="utf-8")
    for line in commands_of(page, "gcc"):
        subprocess.run([*line, "-Wall", "-Wextra", "-Werror"], cwd=folder, check=True)


def commands_of(page, name):
    lines = re.findall(rf"^    ({name} .*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.mark.medium
@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    build(page, tmp_path)
    names = {}
    for block in blocks_of(page, "python"):
        exec(compile(block, page.name, "exec"), names)  # noqa: S102  our own pages


def test_no_block_of_python_is_left_out():
    """What counts is the text: each line that opens a block of Python is one of a block that is run."""
    for page in documents.PAGES:
        text = page.read_text(encoding="utf-8")
        assert {language for language, _ in fences(text)} <= LANGUAGES, page
        opened = len(re.findall(r"^ *(?:```|~~~) *\{?\.?py", text, re.MULTILINE | re.IGNORECASE))
        assert opened == len(blocks_of(page, "python")), page
        assert ">>> " not in text, page
    assert {page for page in WITH_PYTHON if page.parent == REPRODUCTIONS} == set(REPRODUCTIONS.glob("[!R]*.md"))


@pytest.mark.medium
def test_a_program_of_ones_own_runs_as_its_page_says(tmp_path):
    build(OWN_PROGRAMS, tmp_path)
    commands = commands_of(OWN_PROGRAMS, "twofold")
    assert [command[1:3] for command in commands] == [["run", "./sum.elf"], ["run", "./sum32.elf"]]
    for command in commands:
        argv = [sys.executable, "-c", "from twofold.cli import main; main()", *command[1:]]
        done = subprocess.run(argv, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True)
        assert f"{sum(step % 256 for step in range(1000)):#x}" in done.stdout.split()


def test_every_public_name_is_shown_in_the_tour():
    shown = (documents.ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    assert [name for name in twofold.__all__ if f"tf.{name}" not in shown] == []
