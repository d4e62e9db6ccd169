"""The change requests of CONTRIBUTING.md: rooms and files that exist, and no column that touches more than two."""

import re

import documents
import mentions
import pytest

TEXT = (documents.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
(CHANGES,) = (table.rows for table in documents.tables(TEXT) if table.header[:3] == ("change", "room", "files"))


def names_in(cell: str) -> list[str]:
    """Return the code of a cell."""
    return [span.text for span in documents.code_spans(cell)]


def files_in(cell: str) -> list[str]:
    """Return the files that a cell names."""
    return [name for name in names_in(cell) if re.search(r"\.(py|toml)$", name)]


def test_there_are_ten_changes_at_least():
    assert len(CHANGES) >= 10


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0])
def test_a_change_begins_in_a_room_with_files_that_exist_and_is_held_by_tests(change):
    _, room, files, holders = change
    (room,) = names_in(room)
    assert f"src/twofold/{room}" in documents.folders()
    assert any(name.startswith(f"{room}/") for name in files_in(files)), "it begins in its room"
    assert [wrong for name in files_in(files) if (wrong := mentions.problem(name))] == []
    assert all(mentions.exists(name) for name in names_in(holders))
    assert any(name.startswith("tests/") for name in names_in(holders))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0])
def test_what_other_packages_may_register_is_an_entry_point(change):
    groups = [name for name in names_in(change[2]) if re.fullmatch(r"twofold\.\w+", name)]
    assert [wrong for name in groups if (wrong := mentions.problem(name))] == []


def test_a_column_of_the_comparison_touches_two_files_at_most():
    (files,) = (change[2] for change in CHANGES if "column" in change[0])
    assert len(files_in(files)) <= 2
