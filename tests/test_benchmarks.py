"""benchmarks/accelerator.py: what it reads of programs, and that a part that fails or hangs costs only itself."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


GPU = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(bf16[8,64,64,64]{3,2,1,0})->f32[]}

%region_0.5 (Arg_0.6: f32[], Arg_1.7: f32[]) -> f32[] {
  %Arg_0.6 = f32[] parameter(0)
  ROOT %add.8 = f32[] add(%Arg_0.6, %Arg_1.7)
}

%fused_mean (param_0.1: bf16[8,64,64,64]) -> (f32[64], f32[64]) {
  %param_0.1 = bf16[8,64,64,64]{3,2,1,0} parameter(0)
  %convert.1 = f32[8,64,64,64]{3,2,1,0} convert(%param_0.1)
  %constant.1 = f32[] constant(0)
  %reduce.1 = f32[64]{0} reduce(%convert.1, %constant.1), dimensions={0,1,2}, to_apply=%region_0.5
  ROOT %tuple.1 = (f32[64]{0}, f32[64]{0}) tuple(%reduce.1, %reduce.1)
}

%fused_turn (param_0.2: bf16[8,64,64,64]) -> bf16[8,64,64,64] {
  %param_0.2 = bf16[8,64,64,64]{3,2,1,0} parameter(0)
  ROOT %transpose.2 = bf16[8,64,64,64]{3,2,1,0} transpose(%param_0.2), dimensions={0,3,1,2}
}

%fused_wide (param_0.3: bf16[8,64,64,64]) -> f32[8,64,64,64] {
  %param_0.3 = bf16[8,64,64,64]{3,2,1,0} parameter(0)
  ROOT %convert.3 = f32[8,64,64,64]{3,2,1,0} convert(%param_0.3)
}

ENTRY %main.10 (x: bf16[8,64,64,64], w: bf16[3,3,64,64]) -> f32[64] {
  %x = bf16[8,64,64,64]{3,2,1,0} parameter(0)
  %w = bf16[3,3,64,64]{3,2,1,0} parameter(1)
  %conv = (bf16[8,64,64,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), custom_call_target="__cudnn$convForward"
  %y = bf16[8,64,64,64]{3,2,1,0} get-tuple-element(%conv), index=0
  %turned = bf16[8,64,64,64]{3,2,1,0} fusion(%y), kind=kInput, calls=%fused_turn
  %wide = f32[8,64,64,64]{3,2,1,0} fusion(%turned), kind=kLoop, calls=%fused_wide
  %copied = bf16[8,64,64,64]{3,2,1,0} copy(%turned)
  %sums = (f32[64]{0}, f32[64]{0}) fusion(%copied), kind=kInput, calls=%fused_mean
  ROOT %mean = f32[64]{0} get-tuple-element(%sums), index=0
}
"""


def test_the_traffic_of_a_program_is_that_of_its_kernels():
    from on_accelerator import hlo

    found, map_bytes, kernel_bytes = hlo.traffic(GPU), 8 * 64**3 * 2, 9 * 64**2 * 2
    kinds = found["kinds"]
    assert kinds["convolution"] == {"kernels": 1, "read": map_bytes + kernel_bytes, "written": map_bytes}
    assert kinds["move"] == {"kernels": 2, "read": 2 * map_bytes, "written": 2 * map_bytes}
    assert kinds["reduction"] == {"kernels": 1, "read": map_bytes, "written": 2 * 64 * 4}
    assert kinds["elementwise"] == {"kernels": 1, "read": map_bytes, "written": 2 * map_bytes}
    assert found["written"] == {"bf16": 3 * map_bytes, "f32": 2 * map_bytes}
    assert found["float32"] == ["1 x f32[8,64,64,64]"]
    assert found["moves"] == ["2 x bf16[8,64,64,64]"]
    assert found["passes"] == 1


def test_passes_of_batch_norm_are_told_apart_in_a_real_program():
    """CPU's XLA, whose text has other fusions and loops around them."""
    from on_accelerator import hlo

    x = jnp.ones((8, 64, 64, 32))

    def once(x):
        return jnp.mean(x, axis=(0, 1, 2))

    def twice(x):
        return jnp.mean(jnp.square(x - once(x)), axis=(0, 1, 2))

    counts = [hlo.traffic(jax.jit(f).lower(x).compile().as_text())["passes"] for f in (once, twice)]
    assert counts == [1, 2]


def test_what_a_kernel_slices_of_an_operand_is_all_that_it_reads():
    """A fusion that reads every 16th row, as numbers of another type, is no pass over the whole."""
    from on_accelerator import hlo

    text = GPU.replace(
        "ROOT %convert.3 = f32[8,64,64,64]{3,2,1,0} convert(%param_0.3)",
        "%convert.2 = f32[8,64,64,64]{3,2,1,0} convert(%param_0.3)\n"
        "  ROOT %slice.3 = f32[8,4,64,64]{3,2,1,0} slice(%convert.2), slice={[0:8], [0:64:16], [0:64], [0:64]}",
    )
    assert text != GPU
    assert hlo.traffic(text)["kinds"]["elementwise"]["read"] == 8 * 4 * 64 * 64 * 2


def test_a_product_in_a_loop_is_seen():
    from on_accelerator import hlo

    def body(_, x):
        return x @ x

    text = jax.jit(lambda x: jax.lax.fori_loop(0, 3, body, x)).lower(jnp.ones((64, 64))).compile().as_text()
    assert hlo.traffic(text)["kinds"]["product"]["kernels"] == 1


def test_the_gradients_of_roi_align_agree():
    import roi_gradient

    args = roi_gradient.make_parser().parse_args(["--boxes=12", "--channels=3", "--rounds=1"])
    args.size = (128, 160)
    rows = roi_gradient.measured(args, "float32")
    assert [row["who"] for row in rows] == ["forward", *roi_gradient.GRADIENTS]
    assert all(row["difference"] < 1e-5 for row in rows[1:])


def test_a_small_architecture_runs_in_both_types_and_as_on_cpu():
    from on_accelerator import architectures

    device = jax.devices("cpu")[0]
    row = architectures.architecture("cifar_resnet8", device, device)
    assert row["bfloat16"] == row["float32"] == "finite"
    assert row["as_on_cpu"] and max(row["loss"], row["grad_norm"], row["outputs"]) < architectures.TOLERANCE


CONTENDER = """
import os, sys, time
sys.path.insert(0, {path!r})
from served import serve
def make():
    print("a library's noise")
    if {how!r} == "broken":
        raise ValueError("first line\\nsecond line")
    def answer(line):
        if line == "hang":
            time.sleep(600)
        if line == "crash":
            os._exit(7)
        return [{{"line": line, "inverse": 1 / int(line)}}]
    return answer
serve(make)
"""


def test_a_contender_that_fails_crashes_or_hangs_is_an_error_in_a_line(tmp_path):
    from served import Served

    def started(how):
        command = [sys.executable, "-c", CONTENDER.format(path=str(BENCHMARKS), how=how)]
        return Served(command, tmp_path / f"{how}.log", {"PATH": ""})

    assert started("broken").ready(60) == {"error": "ValueError: first line"}
    served = started("whole")
    assert served.ready(60)["ready_s"] < 60
    assert served.ask("4", 60) == {"rows": [{"line": "4", "inverse": 0.25}]}
    assert served.ask("0", 60) == {"error": "ZeroDivisionError: division by zero"}
    assert served.ask("2", 60) == {"rows": [{"line": "2", "inverse": 0.5}]}
    assert served.ask("hang", 0.5)["error"] == "no answer within 0 s"
    assert not served.alive
    served = started("to crash")
    served.ready(60)
    assert served.ask("crash", 60)["error"] == "ended with status 7: a library's noise"
    assert "error" in served.ask("4", 1)


TURNS = """
import sys
sys.path.insert(0, {path!r})
import turns
def make():
    if sys.argv[-1] == "broken":
        raise ValueError("first line\\nsecond line")
    return lambda: None
turns.serve(make)
"""


def test_a_contender_that_fails_is_reported_in_a_line_and_the_others_take_their_turns(tmp_path, monkeypatch, capsys):
    import turns

    script = tmp_path / "script.py"
    script.write_text(TURNS.format(path=str(BENCHMARKS)))
    monkeypatch.setattr(sys, "argv", [str(script)])
    found = turns.measure(["broken", "whole"], ["--work", "train"], 2)
    assert list(found) == ["whole"] and found["whole"].keys() == {"compile", "wall", "cpu", "peak_mb"}
    assert capsys.readouterr().err == "--work train: broken: ValueError: first line\n"


PART = """
import json, sys, time
with open(sys.argv[1], "w") as file:
    for row in ({"key": 1, "who": "x", "value": 1.0}, {"key": 1, "who": "x", "value": 2.0}, {"who": "y", "bad": False}):
        print(json.dumps(row, allow_nan=False), file=file, flush=True)
%s
"""
WAYS = {"a": "", "b": "raise ValueError('broken')", "c": "time.sleep(600)"}


def test_a_part_that_fails_or_hangs_is_recorded_with_its_rows_and_the_rest_goes_on(tmp_path, monkeypatch):
    import accelerator

    def start(name, seconds, args, folder, logs):
        log = logs / f"{name}.log"
        with log.open("w") as file:
            command = [sys.executable, "-c", PART % WAYS[name], str(folder / f"{name}.jsonl")]
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        return accelerator.Part(name, seconds, folder, process, time.monotonic(), log)

    monkeypatch.setattr(accelerator, "start", start)
    output = tmp_path / "found.json"
    record = accelerator.Record(output, {"device": "a test"})
    accelerator.run(("a", "b"), 60, argparse.Namespace(), tmp_path, tmp_path, record)
    accelerator.run(("c",), 4, argparse.Namespace(), tmp_path, tmp_path, record)
    parts = json.loads(output.read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {"a": "done", "b": "failed", "c": "cut off"}
    assert parts["b"]["error"] == "status 1: ValueError: broken"
    assert all(part["rows"] == [{"who": "x", "value": 2.0}, {"who": "y", "bad": False}] for part in parts.values())
    page = output.with_suffix(".md").read_text()
    assert page.count("| x | 2 |  |") == page.count("| y |  | NO |") == 3 and "cut off after 4 s" in page


def test_what_a_part_leaves_over_goes_to_those_after_it():
    import accelerator

    assert accelerator.share(("e",), (), 100) == 100
    assert accelerator.share(("b",), ("d", "c"), 400) == pytest.approx(150)
    assert accelerator.share(("a", "d"), ("c",), 250) == pytest.approx(150)


def test_unknown_parts_are_named():
    import accelerator

    assert accelerator.letters("a,d b") == ["a", "d", "b"]
    with pytest.raises(argparse.ArgumentTypeError, match="there is no part 'x'; there are a, b, c, d, e, f"):
        accelerator.letters("a,x")


def test_distances_are_relative_and_finite():
    from on_accelerator import architectures

    found = np.array([1.0, 2.0, np.nan])
    assert architectures.distance(found[:2], np.array([1.0, 4.0])) == 0.5
    assert architectures.distance(found, np.ones(3)) == 1e9
    assert architectures.distance(np.zeros(0), np.zeros(0)) == 0
