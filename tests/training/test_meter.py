"""Where the time of a training goes, and what its steps compute."""

import json
import re
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.errors import UserError
from morphism.models import cost
from morphism.runtime import peaks
from morphism.training import clock as clocks
from morphism.training.clock import DeviceClock
from morphism.training.loop import train
from morphism.training.meter import TIMED, Meter
from morphism.training.profiling import Span


@pytest.fixture
def slow_device(monkeypatch):
    """The devices take 20 ms for each step."""
    monkeypatch.setattr(clocks.jax, "block_until_ready", lambda results: time.sleep(0.02))


def test_the_device_clock_counts_steps_that_follow_one_another_and_no_pauses(slow_device):
    with DeviceClock() as clock:
        for _ in range(3):  # all dispatched at once: they wait for one another
            clock.add(time.perf_counter(), None)
        first = clock.taken()
        time.sleep(0.1)
        clock.add(time.perf_counter(), None)
        second = clock.taken()
        assert 0.06 <= first < 0.1 and 0.02 <= second < 0.06
        assert clock.taken() == 0


def test_shares_of_the_time_are_those_of_waiting_working_and_running(slow_device):
    def batches():
        for _ in range(2):
            time.sleep(0.1)
            yield {}, {}

    loss = jnp.float32(1)
    with DeviceClock() as clock:
        meter = Meter(8, clock, peak=1e6)
        for _ in meter.timed(batches()):
            meter.dispatching(1000)
            meter.add({"loss": loss}, np.zeros(8, np.int32))
        values = meter.close(2)
    elapsed = 2 * values["train/step_ms"] / 1000
    assert values["train/images_per_s"] == pytest.approx(16 / elapsed)
    assert values["train/flops_per_s"] == pytest.approx(2000 / elapsed)
    assert values["train/mfu"] == pytest.approx(2000 / elapsed / 1e6)
    assert 0.2 <= values["train/input_wait"] * elapsed < 0.4
    assert 0.04 <= values["train/device_share"] * elapsed < 0.2
    assert values["train/input_wait"] + values["train/host_share"] <= 1
    assert 1e7 < values["train/host_peak_memory_bytes"] < 1e12


class Net(nn.Module):
    """Two 3 x 3 convolutions, the first of stride 2, and a product."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), 2, name="a")(x)
        x = nn.Conv(6, (3, 3), name="b")(x)
        return nn.Dense(5, name="c")(x.mean((1, 2)))


@pytest.mark.parametrize("remat", [False, True])
def test_a_step_computes_each_product_thrice_but_no_gradient_of_the_image(remat):
    net = nn.remat(Net)() if remat else Net()
    image = jnp.zeros((2, 8, 8, 3))
    variables = net.init(jax.random.key(0), image)
    traced = jax.jit(jax.grad(lambda variables: net.apply(variables, image).sum())).trace(variables)
    first, second, last = 2 * 16 * 9 * 3 * 4, 2 * 16 * 9 * 4 * 6, 2 * 6 * 5
    assert cost.of_program(traced.jaxpr.jaxpr) == 2 * first + 3 * second + 3 * last


def test_a_loop_counts_as_often_as_it_runs_and_of_branches_the_most_expensive():
    x = jnp.zeros((4, 4))
    looped = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=5)[0])(x)
    assert cost.of_program(looped.jaxpr) == 5 * 64
    chosen = jax.make_jaxpr(lambda i, x: jax.lax.switch(i, [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x], x))(
        0, x
    )
    assert cost.of_program(chosen.jaxpr) == 2 * 64


@pytest.mark.parametrize(
    ("kind", "bfloat16", "float32"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5, 494.5),
        ("NVIDIA H100 PCIe", 756.5, 378.0),
        ("NVIDIA H200", 989.5, 494.5),
        ("NVIDIA A100-SXM4-80GB", 312.0, 156.0),
        ("Tesla V100-SXM2-16GB", None, 15.7),
        ("Tesla T4", None, 8.1),
        ("NVIDIA L4", 121.0, 60.0),
        ("NVIDIA L40S", 362.0, 183.0),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("TPU v3", 61.5, 61.5),
        ("TPU v4", 275.0, 275.0),
        ("TPU v5 lite", 197.0, 197.0),
        ("TPU v5p", 459.0, 459.0),
        ("TPU v6 lite", 918.0, 918.0),
        ("cpu", None, None),
    ],
)
def test_peaks_are_those_of_the_data_sheets_where_they_are_known(kind, bfloat16, float32):
    found = [peaks.flops(kind, dtype) for dtype in ("bfloat16", "float32")]
    assert found == [each and each * 1e12 for each in (bfloat16, float32)]


def test_exact_float32_has_a_peak_of_its_own():
    with jax.default_matmul_precision("highest"):
        assert peaks.flops("NVIDIA A100-SXM4-80GB", "float32") == 19.5e12


@pytest.mark.parametrize("text", ["10", "15:10", "0:3", "a:b", "1:2:3", "", "1.5:2"])
def test_a_range_of_steps_that_is_none_is_an_error(text):
    with pytest.raises(UserError, match="--profile is .*; write the first and the last step, such as 10:15"):
        Span.of(text)


def test_steps_that_the_run_will_not_take_are_an_error(config, tmp_path):
    with pytest.raises(UserError, match="--profile is 7:9; the training has only 8 steps"):
        train(config, tmp_path / "run", profile=Span.of("7:9"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="--profile is 3:5; the run goes on from step 4, choose steps after it"):
        Span.of("3:5").check(4, 8)


def test_a_profiled_run_has_a_trace_of_its_steps_and_says_where_its_time_went(config, tmp_path, capsys):
    train(config, tmp_path, profile=Span(5, 6))
    output = capsys.readouterr().out
    assert f"profile of steps 5 to 6 in {tmp_path / 'profile'}: pip install xprof" in output
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert b"step_num" in trace.read_bytes()
    assert list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))
    assert re.search(r"images/s  input wait \d+ %  host \d+ %  device \d+ %  .*eta", output)
    shares = re.search(
        r"8 steps in .*: steps (\d+) %  start and compilation (\d+) %  evaluation (\d+) %  saving", output
    )
    assert shares and sum(map(int, shares.groups())) <= 102
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    absent = {"train/mfu", "train/peak_memory_bytes", "train/evaluation_s"}  # no peak on CPU; evaluated at the end
    assert set().union(*lines) & set(TIMED) == set(TIMED) - absent
