"""Studies: scenarios, comparisons, results."""

from twofold.study.answer import Alike, Answer, Best, Gain, Impossible, ModeAnswer, answer_of, impossible, shared_rows
from twofold.study.cells import Cell, cells_of
from twofold.study.compare import compare, run_cell
from twofold.study.csv_text import csv_text
from twofold.study.curve import Curve, CurvePoint, curve, curves, curves_frame, curves_json
from twofold.study.curve_answer import LITTLE, CurveAnswer, PageSizeAnswer, curve_answers
from twofold.study.held import Progress
from twofold.study.hosts import default_memory, free_map
from twofold.study.modes import Mode, lay_over
from twofold.study.outcome import HostSummary, Outcome, Spread, host_summary
from twofold.study.refusal import refusal
from twofold.study.row import LEAF_ORDERS, Column, Key, Row, leaf_column
from twofold.study.scenario import (
    THIS_HOST,
    ExactScenario,
    GuestScenario,
    HostScenario,
    Scenario,
    load_scenario,
    make_scenario,
)
from twofold.study.simulation import simulate, workload_trace
from twofold.study.sites import build_all, guest_site, read_address, walk_answer
from twofold.study.traces import TracePrice, check_counted, price_trace, stream_trace

__all__ = [
    "LEAF_ORDERS",
    "LITTLE",
    "THIS_HOST",
    "Alike",
    "Answer",
    "Best",
    "Cell",
    "Column",
    "Curve",
    "CurveAnswer",
    "CurvePoint",
    "ExactScenario",
    "Gain",
    "GuestScenario",
    "HostScenario",
    "HostSummary",
    "Impossible",
    "Key",
    "Mode",
    "ModeAnswer",
    "Outcome",
    "PageSizeAnswer",
    "Progress",
    "Row",
    "Scenario",
    "Spread",
    "TracePrice",
    "answer_of",
    "build_all",
    "cells_of",
    "check_counted",
    "compare",
    "csv_text",
    "curve",
    "curve_answers",
    "curves",
    "curves_frame",
    "curves_json",
    "default_memory",
    "free_map",
    "guest_site",
    "host_summary",
    "impossible",
    "lay_over",
    "leaf_column",
    "load_scenario",
    "make_scenario",
    "price_trace",
    "read_address",
    "refusal",
    "run_cell",
    "shared_rows",
    "simulate",
    "stream_trace",
    "walk_answer",
    "workload_trace",
]
