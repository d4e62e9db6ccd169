"""Reading lines and records: kernels against twins, on lines that fit, nearly fit, and do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold import kernels, spec
from twofold.formats import trace_program as at
from twofold.formats.champsim import LAYOUTS
from twofold.trace.templates import Line, compile_lines
from twofold.trace.text_formats import TEXT_FORMATS, csv_format

CSV = csv_format("t.csv", "vaddr,kind,size,tid,icount")
FORMS = [*TEXT_FORMATS.values(), CSV]
SAMPLES = [
    b"I  04001000,3",
    b" M 1ffe,16",
    b"==1== Lackey",
    b"  47446   37770:  2765543 read    8 byte(s) @ 0x00007fdf64e2adc8 by PC 0x404a7e",
    b"  1 1: W0.T292 ifetch  3 byte(s) @ 0x4 48 89 e7 mov",
    b"  1 1: 5 pref-r-L1 1 byte(s) @ 0x4 by PC 0x4",
    b'0, 0x401014, 0xf2088941, "movl %ecx, (%r8)", store, 0x00403000, RAM, load, 0x10',
    b"w 6871 [001] 859.5: 1 cpu/mem-loads,ldlat=30/P: 7ffe9600 foo+0x1 (/x)  401000 f+0x0 (/w)",
    b"w 6871 859.5: mem-stores: 7ffe9600 401000",
    b"w 6871 859.5: ibs_op//: 7ffe9600 68100142 |OP LOAD|LVL L1",
    b" 6871  6871 0x0000000000401000 0x016401000     0 0x1e05080024 /w:_start",
    b"6871,6871,0x401014,0x403000,0,0x68100142,/w:_start",
    b"1,r,4096,64,0,1000",
    b" 500: system.cpu1: T0 : 0x4 @_start+3. 0 : POP_R : ld t1 : MemRead :  D=0x1 A=0x7fffffffee30  flags=()",
    b" 9: board.processor.cores13.core: A0 T0 : 0x4 @f : vle64 v1 : SimdStridedLoad :  D=[1_2] A=0x7f00  flags=()",
    b"system.cpu: T0 : 0x4 @f : amo a0 :  D=0x1 A=0x7f00  flags=(IsInteger|IsStore|IsLoad)",
    b"Hello 12: system.cpu2: A0 T0 : 0x4 @f : st a0 : MemWrite : A=0x7f00",
    b"    tmux: 12 x    47 [003] U 100.000001:          1 page-faults:     7f0000001000           401136 add (/bin/x)",
    b"    tmux: 12 x    47   100.000000001:     ffffffff81000000 add ([k])",
    b"   worker   47   100.000001:         12     7f0000001000",
    b"cpu/mem-stores/P:     7f0000001000        68100144 |OP STORE|LVL L1           401136 add (/bin/x)",
    b"47 [002] cycles:            401136 main (/bin/x)",
    b"     7f0000001000",
    b"1;2;0x40;0x7f0000001000;0x0000000012340000;4K;168;0x68100144;/x:f",
    b"    1     2 0x0000000000000040 0x0167f0000001000 0x0000000012340000 N/A   168 0x68100144 /x:f",
    b"1,2,0x40,0x0,168,0x68100144,/x:f",
    b"     3: T4711 ifetch       5 byte(s) @ 0x00007f0000001000 non-branch",
    b"SB 00401000",
    b"0x7fff,WRITE,8,17,5",
    b"18446744073709551615,0,65535,18446744073709551615,1",
    b"18446744073709551616,r,65536,1,1",
    b"0xffffffffffffffffF,r,1,1,1",
    b"",
]
LINES = st.one_of(
    st.sampled_from(SAMPLES),
    st.binary(max_size=30),
    st.tuples(st.sampled_from(SAMPLES), st.integers(0, 90), st.integers(0, 90), st.binary(max_size=3)).map(
        lambda cut: cut[0][: cut[1]] + cut[3] + cut[0][cut[2] :]
    ),
)
TEXTS = st.lists(LINES, max_size=12).flatmap(
    lambda lines: st.sampled_from([b"\n", b"\r\n"]).map(lambda end: end.join(lines))
)


def scan(engine, form, text, room, is_last):
    """Scan a text to its end; return everything that can be seen."""
    compiled = compile_lines(form.lines, form.words)
    state = np.zeros(at.SEEN + len(form.lines), np.int64)
    state[at.IS_LAST] = is_last
    registers, seen = np.zeros(at.REGISTERS, np.uint64), []
    for _ in range(100):
        out = np.zeros((at.COLUMNS, room), np.uint64)
        state[at.ACCESSES] = 0
        status = engine.traces.scan_lines(
            np.frombuffer(text, np.uint8).copy(),
            compiled,
            state,
            registers,
            out,
        )
        seen.append((int(status), state.tolist(), out.tolist()))
        if status != at.FULL or not state[at.ACCESSES]:
            break
    return seen


@given(st.sampled_from(FORMS), TEXTS, st.integers(2, 9), st.booleans())
def test_lines_are_read_as_the_spec_reads_them(form, text, room, is_last):
    assert scan(kernels, form, text, room, is_last) == scan(spec, form, text, room, is_last)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("sample", SAMPLES)
def test_every_sample_is_read_as_the_spec_reads_it(form, sample):
    assert scan(kernels, form, sample, 9, is_last=True) == scan(spec, form, sample, 9, is_last=True)


WORDS = st.one_of(st.just(0), st.integers(0, 2**64 - 1))


@given(
    st.sampled_from(sorted(LAYOUTS)),
    st.lists(st.lists(WORDS, min_size=12, max_size=12), max_size=9),
    st.integers(0, 2**40),
)
def test_records_are_unpacked_as_the_spec_unpacks_them(name, records, first):
    layout = LAYOUTS[name]
    array = np.array(records, np.uint64).reshape(len(records), 12)[:, : layout.words].copy()
    outs = [np.zeros((3, layout.accesses * len(records)), np.uint64) for _ in range(2)]
    counts = [
        int(engine.traces.unpack_champsim(array, np.array(layout.places), np.uint64(first), out))
        for engine, out in zip((kernels, spec), outs, strict=True)
    ]
    assert counts[0] == counts[1]
    assert (outs[0][:, : counts[0]] == outs[1][:, : counts[1]]).all()


def test_a_stage_that_could_go_on_for_ever_is_refused():
    with pytest.raises(ValueError, match="without taking a byte"):
        compile_lines([Line("{~}", stage=1, then=1)], {})
