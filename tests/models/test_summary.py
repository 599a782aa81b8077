import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from morphism.models import cost
from morphism.models.summary import Layer, layers, table

ROOT = Path(__file__).parent.parent.parent


class Shared(nn.Module):
    """One convolution, used on two sizes, and a product of matrices outside every layer."""

    @nn.compact
    def __call__(self, images, *, train):
        conv = nn.Conv(4, (3, 3), padding=1, use_bias=False, name="conv")
        x = conv(images)
        conv(images[:, ::2, ::2])
        return jnp.einsum("bhwc,bhwd->bcd", x, x)


def test_a_layer_that_is_called_twice_stands_once_with_the_work_of_both():
    variables = jax.eval_shape(lambda: Shared().init(jax.random.key(0), jnp.zeros((1, 8, 6, 3)), train=False))
    assert layers(Shared(), variables, (8, 6, 3)) == [
        Layer("conv", "Conv", (8, 6, 4), 2, 9 * 3 * 4, 9 * 3 * 4 * (8 * 6 + 4 * 3))
    ]
    assert cost.multiply_accumulates(Shared(), variables, (8, 6, 3)) == 9 * 3 * 4 * 60 + 8 * 6 * 4 * 4


def test_the_table_lines_up():
    lines = table([Layer("conv1", "Conv", (8, 8, 64), 1, 9408, 1_000_000)], 9408, 1_000_000).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["conv1", "Conv", "8x8x64", "9,408", "1,000,000"],
        ["total", "9,408", "1,000,000"],
    ]
    assert len(set(map(len, lines))) == 1


def summary(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "morphism", "summary", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_needs_no_data():
    done = summary("experiments/imagenet_resnet.py:50", "--json", "--size", "160x224")
    found = json.loads(done.stdout)
    assert found["parameters"] == 25_557_032 == sum(layer["parameters"] for layer in found["layers"])
    assert found["multiply_accumulates"] == sum(layer["multiply_accumulates"] for layer in found["layers"])
    assert (found["classes"], found["size"]) == (1000, [160, 224])
    assert found["layers"][0] == {
        "name": "conv1",
        "kind": "Conv",
        "output": [80, 112, 64],
        "calls": 1,
        "parameters": 9408,
        "multiply_accumulates": 80 * 112 * 9408,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config is missing"),
        (("experiments/quickstart.py", "--size=0"), "--size is '0'; write 224"),
        (("experiments/fashion_mnist_vgg.py", "--size=31"), "images of 31x31 are too small for VGG"),
        (("--json", "experiments/quickstart.py"), "the experiment comes first"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(arguments, message):
    done = summary(*arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
