"""CPU profiles: the shipped ones are complete and sourced, wrong ones give one line that names the field."""

import re
from dataclasses import fields
from importlib import resources

import pytest

from twofold.errors import FormatError, ProfileError, TwofoldError, UnknownNameError
from twofold.mmu import load_profile, profile_fields, profile_names
from twofold.mmu.profile import Structure

SHIPPED = {"barcelona", "golden-cove", "haswell", "none", "skylake", "zen2", "zen3", "zen4"}
GOOD = (resources.files("twofold") / "data" / "cpus" / "zen3.toml").read_text()


def test_the_promised_profiles_are_shipped():
    assert set(profile_names()) >= SHIPPED


@pytest.mark.parametrize("name", profile_names())
def test_every_field_has_a_source_and_a_confidence(name):
    profile = load_profile(name)
    assert profile.name == name
    for field in fields(profile):
        part = getattr(profile, field.name)
        if field.name not in {"name", "title"}:
            assert len(part.source) > 8
            assert part.confidence in {"high", "medium", "low"}
            assert not ("ssumed" in part.source[:8] and part.confidence == "high"), field.name


@pytest.mark.parametrize(
    ("name", "reach"),
    [("zen2", 64 + 2048), ("zen3", 64 + 2048), ("skylake", 64 + 1536), ("haswell", 64 + 1024), ("barcelona", 48 + 512)],
)
def test_published_sizes_are_there(name, reach):
    profile = load_profile(name)
    assert profile.l1_4k.entries + profile.l2_4k.entries == reach


def test_the_fields_of_a_profile_read_as_words():
    rows = {name: (value, confidence) for name, value, confidence, _ in profile_fields("zen3")}
    assert rows["l1_4k"] == ("64 entries, 64 ways", "high")
    assert rows["l1_2m"] == ("those of l1_4k", "high")
    assert rows["l2_1g"] == ("absent", "low")
    assert rows["l2_cycles"] == ("12", "low")
    assert rows["guest_structure_holds"] == ("guest", "low")


def test_no_structure_of_none_holds_anything():
    assert all(part.entries == 0 and part.sets == 1 for part in load_profile("none").structures.values())


def test_an_unknown_name_says_what_is_known():
    with pytest.raises(UnknownNameError, match="unknown CPU 'pentium'; known are barcelona, "):
        load_profile("pentium")


def saved(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_a_profile_can_come_from_a_file(tmp_path):
    assert load_profile(saved(tmp_path, GOOD)) == load_profile("zen3")
    assert load_profile(str(saved(tmp_path, GOOD))) == load_profile("zen3")


def edited(section, old, new):
    """Return the good profile with one section changed."""
    head, tail = GOOD.split(f"[{section}]\n")
    body, *rest = re.split(r"\n(?=\[|#)", tail)
    assert old in body
    return "\n".join([f"{head}[{section}]\n{body.replace(old, new)}", *rest])


@pytest.mark.parametrize(
    ("section", "old", "new", "says"),
    [
        ("l1_4k", "ways = 64", "ways = 7", r"field l1_4k: 64 entries cannot stand in 7 ways"),
        ("l1_4k", "ways = 64", "ways = 0", r"field l1_4k: 64 entries cannot stand in 0 ways"),
        ("l1_4k", "entries = 64", "entries = 0", r"field l1_4k: 0 entries cannot stand in 64 ways"),
        ("l1_4k", "entries = 64", "entries = -64", r"field l1_4k: -64 entries are out of range"),
        ("l1_4k", "entries = 64", "entries = 99999999999", r"field l1_4k: 99999999999 entries are out of range"),
        ("l1_4k", "entries = 64", 'entries = "64"', r"field l1_4k\.entries: .*integer"),
        ("l1_4k", "entries = 64", "entries = 2026-01-01", r"field l1_4k\.entries: .*integer"),
        ("l1_4k", "entries = 64", "entires = 64", r"field l1_4k\.entires: "),
        ("l1_4k", 'confidence = "high"', "", r"field l1_4k\.confidence: "),
        ("l1_4k", 'confidence = "high"', 'confidence = "sure"', r"field l1_4k\.confidence: "),
        ("l1_2m", '"l1_4k"', '"l9"', r"field l1_2m: cannot share 'l9'"),
        ("l1_2m", '"l1_4k"', '"l1_1g"', r"field l1_2m: cannot share 'l1_1g'"),
        ("l1_2m", '"l1_4k"', '"l2_lines"', r"field l1_2m: cannot share 'l2_lines'"),
        ("l1_2m", 'shares = "l1_4k"', 'shares = "l1_4k"\nentries = 4\nways = 4', r"field l1_2m: entries and ways"),
        ("l2_cycles", "value = 12", "value = -1", r"field l2_cycles: -1 cycles are out of range"),
        ("smash_1g", '"l2"', '"yes"', r"field smash_1g\.value: "),
        ("guest_structure_holds", '"guest"', "true", r"field guest_structure_holds\.value: "),
    ],
)
def test_a_wrong_field_is_named_in_one_line(tmp_path, section, old, new, says):
    with pytest.raises(ProfileError, match=says) as caught:
        load_profile(saved(tmp_path, edited(section, old, new)))
    assert "\n" not in str(caught.value)


def test_a_missing_or_unknown_section_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"field nested_4k: Field required$"):
        load_profile(saved(tmp_path, GOOD.replace("[nested_4k]", "[nested]")))


@pytest.mark.parametrize("data", [b"", b"= 3", b"\xff\xfe", b"name = 'x'", b"[l1_4k", b"a = " + b"[" * 3000])
def test_a_file_that_is_no_profile_gives_one_line(tmp_path, data):
    path = tmp_path / "broken.toml"
    path.write_bytes(data)
    with pytest.raises(TwofoldError) as caught:
        load_profile(path)
    assert "\n" not in str(caught.value)
    assert "broken.toml" in str(caught.value)


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    with pytest.raises(FormatError, match=r"none\.toml: cannot be read: No such file"):
        load_profile(tmp_path / "none.toml")


def test_a_sharing_structure_has_one_set_of_its_own():
    assert Structure("a test", "high", shares="l1_4k").sets == 1
