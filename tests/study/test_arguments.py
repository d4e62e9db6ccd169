"""What public functions take: a path or a name may be a text; a wrong type is one line that says what is right."""

from pathlib import Path

import numpy as np
import pytest

import twofold as tf
from twofold.study import check_counted, price_trace, workload_trace
from twofold.trace import AREA_BASE, open_reader

GVAS = AREA_BASE + np.arange(64, dtype=np.uint64) * 4096


@pytest.fixture(scope="module")
def guest():
    with tf.Machine("256MiB") as machine:
        domain = machine.create_domain("32MiB")
        tf.build(domain, "small")
        yield tf.Guest(domain, footprint="1MiB")


def scenario(**fields):
    return tf.make_scenario({"host": {"size": "256MiB"}, "guest": {"memory": "16MiB"}} | fields)


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "t.twotrace"
    tf.Trace.of(GVAS).save(path)
    return path


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_a_text_or_a_path(guest, trace, tmp_path, kind):
    (tmp_path / "s.toml").write_text("accesses = 7\n")
    (tmp_path / "p.elf").write_bytes(tf.get_workload("stream").program())
    assert tf.load_scenario(kind(tmp_path / "s.toml")) == {"accesses": 7}
    assert sum(len(block.gvas) for block in open_reader(kind(trace)).blocks()) == 64
    assert tf.simulate(kind(trace), guest).accesses == tf.simulate(GVAS, guest).accesses == 64
    assert tf.curve(kind(trace)).accesses == 64
    assert price_trace(kind(trace), scenario()).stats.accesses == 64
    assert tf.convert_trace(kind(trace), kind(tmp_path / "c.twotrace")).accesses == 64
    assert tf.Program.from_file(kind(tmp_path / "p.elf")).elf
    assert tf.run(guest, kind(tmp_path / "p.elf")).exit_code == 0
    tf.write_curves([tf.curve(GVAS)], "of a test", kind(tmp_path / "c.html"))
    assert "of a test" in (tmp_path / "c.html").read_text()


def test_a_workload_is_itself_or_its_name(guest):
    item = tf.get_workload("stream")
    one, other = (list(workload_trace(each, 0, 65536, 10)) for each in (item, "stream"))
    assert np.array_equal(one, other)
    assert tf.run(guest, "stream").output == tf.run(guest, tf.Program.workload("stream")).output
    with pytest.raises(tf.UnknownNameError, match="unknown workload 'streem'; did you mean 'stream'"):
        tf.run(guest, "streem")


WRONG = {
    "Machine": (tf.Machine, "a size is a whole number of bytes or a text like '4GiB', not list"),
    "FreeMap.synthetic": (tf.FreeMap.synthetic, "a size is a whole number of bytes"),
    "get_workload": (tf.get_workload, "workload: a name is a str, not list"),
    "get_design": (tf.get_design, "design: a name is a str, not list"),
    "get_engine": (tf.get_engine, "engine: a name is a str, not list"),
    "layout": (lambda given: tf.DomainOptions(layout=given), "layout: a name is a str, not list"),
    "page sizes": (
        lambda given: tf.DomainOptions(page_sizes=given[0]),
        "page sizes are a text like '4K,2M', or orders",
    ),
    "behaviour": (lambda given: tf.Machine("64MiB", behaviour=given), "behaviour: a name is a str, not list"),
    "load_profile": (tf.load_profile, "a CPU is a name or the path of a TOML file, not list"),
    "load_scenario": (tf.load_scenario, "a path is a str or a Path, not list"),
    "make_scenario": (tf.make_scenario, "the fields of a scenario are a dict, not list"),
    "compare": (tf.compare, "a comparison takes a Scenario, as make_scenario gives, not list"),
    "cells_of": (tf.cells_of, "a comparison takes a Scenario"),
    "run_cell": (lambda given: tf.run_cell(given, None), "a comparison takes a Scenario"),
    "curve": (lambda given: tf.curve(given[0]), "a trace is an array of gvas, a Trace, or an iterable of arrays"),
    "page size": (lambda given: tf.curve(GVAS, given), "a page size is a text like '2M', not list"),
    "simulate": (lambda given: tf.simulate(GVAS, given), "an address space is a Guest or a TraceGuest, not list"),
    "capture": (lambda given: tf.capture_trace("true", given[0]), "a path is a str or a Path, not float"),
    "command": (lambda _: tf.capture_trace("true", "t"), "a command is a list: the program and its arguments, not str"),
    "write_report": (
        lambda given: tf.write_report(given, "r"),
        "a report is of an Outcome, as compare gives, not list",
    ),
}


@pytest.mark.parametrize(("call", "expected"), WRONG.values(), ids=WRONG)
def test_a_wrong_type_is_a_type_error_of_one_line_that_says_what_is_expected(call, expected):
    with pytest.raises(TypeError) as caught:
        call([1.5])
    (line,) = str(caught.value).splitlines()
    assert line.startswith(expected)


def test_a_design_is_a_name_or_something_that_populates():
    with tf.Machine("64MiB") as machine:
        domain = machine.create_domain("16MiB")
        with pytest.raises(TypeError, match="a design is a name or has a method populate, not int 5"):
            tf.build(domain, 5)


def test_a_replay_may_be_allowed_no_machine_at_all(tmp_path):
    with tf.Machine("64MiB", journal=tmp_path / "m.journal"):
        pass
    with pytest.raises(tf.FormatError, match="more than the 0B that are allowed"):
        tf.replay(tmp_path / "m.journal", max_machine=0)


def test_a_trace_of_which_nothing_is_counted_is_told_by_the_reason():
    with pytest.raises(tf.ScenarioError, match="field warmup: 5 accesses leave none"):
        check_counted("t", 0, 5)
    with pytest.raises(tf.FormatError, match="t: holds no load and no store"):
        check_counted("t", 0, 0)
    check_counted("t", 1, 5)


NUMBERS = [True, 1.0, "5", None, -1, 2**40 + 1, 10**5000]


@pytest.mark.parametrize("number", NUMBERS, ids=["true", "float", "text", "none", "negative", "large", "very large"])
def test_a_count_of_a_scenario_is_a_whole_number_in_its_range(number):
    with pytest.raises(tf.ScenarioError, match=r"field accesses: .* is no whole number from 1 to 1099511627776"):
        scenario(accesses=number)
    assert scenario(accesses=np.int64(7)).accesses == 7


@pytest.mark.parametrize("share", [True, "0.5", -0.0, 1.01, float("nan"), float("inf"), -1])
def test_a_share_of_a_scenario_is_a_number_from_0_to_1(share):
    with pytest.raises(tf.ScenarioError, match=r"field host\.free: .* is no share, a number from 0 to 1"):
        tf.make_scenario({"host": {"size": "1GiB", "free": share}})


def test_what_does_not_apply_to_a_host_is_none_and_what_was_not_given_has_its_default():
    made_up, given = (tf.make_scenario({"host": host}).host for host in ({"size": "1GiB"}, {"snapshot": "fresh"}))
    assert (made_up.free, made_up.fragmentation, made_up.packing) == (0.6, 0.4, None)
    assert (given.free, given.fragmentation, given.packing) == (None, None, None)
    for host in (made_up, given):  # what was saved is read again
        assert tf.make_scenario({"host": host.model_dump()}).host == host


def test_a_scenario_that_is_made_at_once_is_refused_in_one_line_too():
    with pytest.raises(tf.ScenarioError, match=r"^Scenario: field seed: 'x' is no whole number") as refused:
        tf.Scenario(seed="x", accesses=5)
    assert "\n" not in str(refused.value)


def test_a_structure_is_counted_once():
    with pytest.raises(tf.SizeError, match="lists a structure twice"):
        tf.curves([0], page_sizes=["4K", "4k"])
