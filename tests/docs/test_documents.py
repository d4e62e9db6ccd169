"""The documents say nothing twice, and what they name exists; and what checks that notices when it is not so."""

import ast
import re

import documents
import mentions
import pytest

PAGES = [pytest.param(page, id=page.relative_to(documents.ROOT).as_posix()) for page in documents.PAGES]
SPECIFICATION = (documents.ROOT / "SPECIFICATION.md").read_text(encoding="utf-8")


def problems(text: str, folder: str = "") -> list[str]:
    """Return what a text names that does not exist."""
    spans = [*documents.code_spans(text), *documents.command_lines(text)]
    found = [(span, mentions.problem(span.text, folder)) for span in spans]
    return [f"line {span.line}: `{span.text}`: {wrong}" for span, wrong in found if wrong]


def dead_links(text: str, folder: str = "") -> list[str]:
    """Return the links of a text that lead nowhere in the repository."""
    wrong = []
    for link in documents.links(text):
        path, _, anchor = link.text.partition("#")
        target = mentions.resolve(folder, path.rstrip("/"))
        is_there = not path or mentions.exists(target)
        if is_there and anchor:
            page = (documents.ROOT / target).read_text(encoding="utf-8") if path else text
            is_there = anchor in documents.anchors(page)
        if not is_there:
            wrong.append(f"line {link.line}: {link.text}")
    return wrong


def folder_of(page) -> str:
    """Return the folder that a page's paths begin from; fragments of the changelog are written for CHANGELOG.md."""
    folder = page.parent.relative_to(documents.ROOT).as_posix()
    is_fragment = folder == "changelog.d" and page.name != "README.md"
    return "" if is_fragment or folder == "." else folder


@pytest.mark.parametrize("page", PAGES)
def test_no_table_has_a_row_twice_or_a_row_of_another_width(page):
    text = page.read_text(encoding="utf-8")
    assert documents.doubled_rows(text) + documents.ragged_rows(text) == []


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
    assert problems(page.read_text(encoding="utf-8"), folder_of(page)) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    assert dead_links(page.read_text(encoding="utf-8"), folder_of(page)) == []


def test_the_glossary_explains_each_word_once_and_in_order():
    text = (documents.ROOT / "GLOSSARY.md").read_text(encoding="utf-8")
    words = [word.lower() for word in re.findall(r"^- \*\*(.+?)\*\*", text, re.MULTILINE)]
    assert words == sorted(set(words))


def layers() -> list[set[str]]:
    """Return the rooms of each layer, from the test that keeps them."""
    source = (documents.ROOT / "tests" / "architecture" / "test_layers.py").read_text(encoding="utf-8")
    (listed,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    )
    return [set(rooms.split()) for rooms in listed]


def test_the_rooms_of_the_design_are_the_layers_of_the_test():
    text = (documents.ROOT / "DESIGN.md").read_text(encoding="utf-8")
    (rows,) = (table.rows for table in documents.tables(text) if table.header[:2] == ("layer", "room"))
    assert [row[0] for row in rows] == [str(layer) for layer in range(len(rows))]
    assert [set(re.findall(r"`(\w+)`", row[1])) for row in rows] == layers()


def test_every_folder_of_tests_says_what_it_proves():
    text = (documents.ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    (rows,) = (table.rows for table in documents.tables(text) if table.header[0] == "folder")
    found = {path.split("/")[1] for path in documents.files() if path.startswith("tests/") and path.count("/") > 1}
    assert {row[0].strip("`") for row in rows} == {f"tests/{folder}" for folder in found}


def promises() -> list[tuple[str, ...]]:
    """Return the rows of SPECIFICATION.md: promise, figure, what holds it, status."""
    return [row for table in documents.tables(SPECIFICATION) for row in table.rows]


def test_every_promise_names_what_holds_it_and_says_how_it_stands():
    for promise, figure, holder, status in promises():
        assert figure, promise
        assert holder.startswith("the same") or re.search(r"`(tests/|benchmarks/|make )", holder), promise
        assert re.match(r"(held|measured: |missed: |missed in part: )", status), promise


@pytest.mark.parametrize("mark", ["slow", "medium"])
def test_promises_that_name_a_set_of_tests_are_held_by_one_with_its_mark(mark):
    for promise, _, holder, _ in promises():
        if f"({mark} set)" in holder and not holder.startswith("the same"):
            paths = [documents.ROOT / path for path in re.findall(r"`(tests/[^`]*)`", holder)]
            files = [each for path in paths for each in ([path] if path.is_file() else path.rglob("*.py"))]
            assert any(f"mark.{mark}" in each.read_text(encoding="utf-8") for each in files), promise


# -- what checks the documents is checked ------------------------------------------------------------------------


def test_a_doubled_row_is_noticed():
    table = "| a | b |\n|---|---|\n| 1 | x |\n| 2 | y |\n| 1 | z |\n"
    assert documents.doubled_rows(table) == ["line 5: 1 stands twice"]
    assert documents.doubled_rows(table.replace("| 1 | z", "| 3 | z")) == []
    twice = "| a |\n|---|\n| 1 |\n\ntext\n\n| a |\n|---|\n| 1 |\n"
    assert documents.doubled_rows(twice) == ["line 9: 1 stands twice"]
    assert documents.doubled_rows(f"```\n{twice}```\n") == []


def test_a_row_that_is_too_short_is_noticed():
    table = "| a | b |\n|---|---|\n| `x|y` | 1 |\n| 2 |\n"
    assert documents.ragged_rows(table) == ["line 4: 1 cells under 2"]


@pytest.mark.parametrize(
    "name",
    [
        "tests/p2m/test_nothing.py",
        "tests/nothing",
        "tests/p2m/test_p2m.py::test_nothing_of_the_kind",
        "test_nothing.py",
        "test_nothing",
        "benchmarks/nothing.py",
        "benchmarks/nothing*.py",
        "twofold/p2m/nothing.py",
        "src/twofold/nothing",
        "nothing.md",
        "p2m.nothing",
        "p2m.table.Nothing",
        "p2m.split.nothing_of_ours",
        "machine.arena.nothing_of_ours",
        "tf.nothing",
        "tf.FreeMap.nothing",
        "twofold.mmu.NOTHING",
        "P2M.nothing",
        "Machine(nothing=1)",
        "tf.simulate(trace, guest, nothing=3)",
        "p2m.split(gfn, nothing=True)",
        "make nothing",
        "make check nothing",
        "twofold nothing",
        "twofold trace nothing",
        "twofold compare --nothing",
        "--nothing",
    ],
)
def test_a_name_of_nothing_is_noticed(name):
    assert mentions.problem(name), name


@pytest.mark.parametrize(
    "name",
    [
        "tests/docs/test_documents.py",
        "tests/docs/test_documents.py::test_a_name_that_exists_or_is_not_ours_passes",
        "tests/docs",
        "test_documents",
        "documents.py",
        "benchmarks/p2m*.py",
        "machine/digest.py",
        "p2m.table",
        "p2m.table.P2M",
        "p2m.split",
        "p2m.linear.why_not",
        "machine.arena.write",
        "guest.misaligned",
        "tf.FreeMap.shipped('fragmented')",
        "twofold.mmu.ASSUMPTIONS",
        "twofold.designs",
        "Machine(behaviour='twofold')",
        "Mem.NEAR",
        "make test",
        "make test ARGS='-k heap -x'",
        "twofold compare --behaviour twofold,xen-4.17 --host fragmented",
        "twofold trace convert",
        "--seed",
        "E/N",
        "numpy.ndarray.view",
        "run.journal",
        "/proc/kpageflags",
        "a sentence, not a name",
    ],
)
def test_a_name_that_exists_or_is_not_ours_passes(name):
    assert mentions.problem(name) is None


def test_code_is_found_in_tables_across_lines_and_in_blocks_of_commands():
    text = "See `make\nno`, and\n\n| a |\n|---|\n| `no.md` |\n\n    twofold no\n\n```sh\nmake no # x\n```\n"
    assert [line.partition(":")[0] for line in problems(text)] == ["line 1", "line 6", "line 8", "line 11"]
    assert problems("```python\n`tests/nothing.py`\n```\n") == []


def test_a_dead_link_is_noticed():
    text = "# A heading, `it` is\n\n[a](#a-heading-it-is) [b](#b) [c](DESIGN.md) [d](DESIGN.md#rooms) [e](nothing.md)\n"
    assert dead_links(text) == ["line 3: #b", "line 3: nothing.md"]
    assert dead_links("[a](../README.md) [b](README.md)", "docs") == ["line 1: README.md"]
    assert dead_links("[a](https://example.org/nothing)") == []
