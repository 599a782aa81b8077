"""config.precision and config.deterministic: in every program, on every platform, and in a run's record."""

import json
import re

import jax
import numpy as np
import pytest

from morphism import models, tasks
from morphism.evaluation.exported import export
from morphism.evaluation.run import Run
from morphism.evaluation.step import make_eval_step
from morphism.ops.platform import compiling_for
from morphism.runtime import manifest, peaks
from morphism.runtime.arithmetic import compiled
from morphism.runtime.mesh import AXIS, compiler_options
from morphism.runtime.surroundings import repeatable, surroundings
from morphism.training.build import build
from morphism.training.loop import train
from morphism.training.reproduce import read_original

pytestmark = pytest.mark.usefixtures("blockless")

PRODUCTS = re.compile(r"(?:stablehlo\.(?:dot_general|convolution)).*")


def precisions(lowered):
    """The precisions that the products of a program are computed at."""
    products = PRODUCTS.findall(lowered.as_text())
    assert products
    return {word for line in products for word in re.findall(r"DEFAULT|HIGHEST|HIGH\b", line)}


@pytest.mark.parametrize(("precision", "expected"), [("default", "DEFAULT"), ("high", "HIGH"), ("highest", "HIGHEST")])
def test_training_evaluation_and_export_compute_at_the_precision_of_the_configuration(config, precision, expected):
    config.precision = precision
    parts = build(config)
    shapes = {"image": ((8, 8, 3), np.uint8), "label": ((), np.int32), "id": ((), np.int32), "draw": ((), np.int32)}
    batch = {name: jax.ShapeDtypeStruct((16, *shape), kind) for name, (shape, kind) in shapes.items()}
    batch["valid"] = jax.ShapeDtypeStruct((16,), bool)
    whole = jax.ShapeDtypeStruct((16, 2), np.int32)
    batch |= {"size": whole, "original_size": whole}

    assert precisions(parts.programs.train_step.lower(parts.shapes, batch, parts.hyper)) == {expected}
    variables = {"params": parts.shapes.params, "batch_stats": parts.shapes.batch_stats}
    model, task = models.create(config.model, 10, AXIS), tasks.of(config)
    assert precisions(make_eval_step(model, task, config, parts.mesh).lower(variables, batch)) == {expected}
    exported = export(Run(config, task, tuple("0123456789"), "a test", {}, model, _zeros(variables)))
    lowered = jax.jit(exported.program).lower(exported.weights, *exported.inputs(2).values())
    assert precisions(lowered) == {expected}


def _zeros(variables):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables)


def test_by_default_the_setting_of_jax_holds(config):
    x = np.ones((2, 2), np.float32)
    with jax.default_matmul_precision("highest"):
        assert precisions(compiled(lambda x: x @ x, config).lower(x)) == {"HIGHEST"}
    assert precisions(compiled(lambda x: x @ x, config).lower(x)) == {"DEFAULT"}


@pytest.mark.parametrize(
    ("platform", "expected"), [("gpu", {"xla_gpu_deterministic_ops": True}), ("tpu", {}), ("cpu", {})]
)
def test_determinism_is_an_option_of_the_compiler_for_gpus(platform, expected):
    with compiling_for(platform):
        assert compiler_options(deterministic=True) == compiler_options() | expected
        assert not compiler_options().keys() & {"xla_gpu_deterministic_ops"}


def test_xla_knows_that_option():
    assert jax.jit(lambda: 1, compiler_options={"xla_gpu_deterministic_ops": True})() == 1
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_no_such_ops"):
        jax.jit(lambda: 1, compiler_options={"xla_gpu_no_such_ops": True})()


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ({"platform": "cpu"}, True),
        ({"platform": "tpu"}, True),
        ({"platform": "gpu"}, False),
        ({"platform": "gpu", "deterministic": True}, True),
        ({"platform": "gpu", "environment": {"XLA_FLAGS": "--a --xla_gpu_deterministic_ops"}}, True),
        ({"platform": "gpu", "environment": {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true --b"}}, True),
        ({"platform": "gpu", "environment": {"XLA_FLAGS": "--xla_gpu_deterministic_ops=false"}}, False),
        ({"platform": "gpu", "environment": {"XLA_FLAGS": "--xla_gpu_exclude_nondeterministic_ops"}}, False),
    ],
)
def test_which_runs_can_be_repeated_to_the_bit(start, expected):
    assert repeatable(start) == expected


def test_a_run_that_is_resumed_on_a_gpu_says_once_that_its_bits_may_differ(config, tmp_path, monkeypatch, capsys):
    config.duration, config.checkpoint_every = "3", "1"
    on_gpu = surroundings() | {"platform": "gpu", "environment": {}}
    monkeypatch.setattr(manifest, "surroundings", lambda: on_gpu)
    train(config, tmp_path, until=1)
    assert "timing" not in capsys.readouterr().out
    train(config, tmp_path, until=2)
    assert capsys.readouterr().out.count("resumed on a GPU") == 1
    config.update(deterministic=True)
    train(config, tmp_path)
    said = capsys.readouterr().out
    assert "resumed on a GPU" not in said
    assert said.count("config.deterministic=False, now it is True") == 1
    starts = json.loads((tmp_path / "manifest.json").read_text())
    assert [(each["precision"], each["deterministic"]) for each in starts] == [
        ("default", False),
        ("default", False),
        ("default", True),
    ]
    _, notes = read_original(tmp_path, None)
    assert not any("last bits" in note for note in notes)
    (tmp_path / "manifest.json").write_text(json.dumps(starts[:2], allow_nan=False))
    _, notes = read_original(tmp_path, None)
    assert sum("last bits" in note for note in notes) == 1


@pytest.mark.parametrize(("precision", "expected"), [("default", 156e12), ("high", 156e12), ("highest", 19.5e12)])
def test_the_peak_of_float32_is_that_of_its_precision(precision, expected):
    assert peaks.flops("NVIDIA A100-SXM4-80GB", "float32", precision) == expected
    assert peaks.flops("NVIDIA A100-SXM4-80GB", "bfloat16", precision) == 312e12
