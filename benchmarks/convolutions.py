"""The convolutions of a network by kind, forward and both gradients, here and in torch: what a training step spends.

    python benchmarks/convolutions.py [MODEL] [HEIGHTxWIDTH] [--batch 8] [--rounds 5]

Each distinct convolution runs by itself, in turns with torch's (channels last, on the same numbers); a row is the sum
over all convolutions of one kind in the network. Needs torch, which is not a dependency. On a shared machine only the
ratios of CPU seconds count.
"""

import argparse
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # otherwise torch's waiting threads use CPU seconds

import jax
import jax.numpy as jnp
import numpy as np
import torch
import turns
from jax.extend.core import jaxprs_in_params
from ml_collections import ConfigDict

from morphism import models
from morphism.models.layers import conv
from morphism.ops.platform import as_accelerator
from morphism.runtime.mesh import compiler_options

WORKS = ("forward", "gradient of input", "gradient of kernel")


class Convolution(NamedTuple):
    """A convolution with a square kernel, and what it is applied to."""

    image: tuple[int, ...]  # B, H, W, C
    kernel: tuple[int, ...]  # k, k, C / groups, features
    stride: int
    pad: int
    dilation: int
    groups: int

    @property
    def kind(self) -> str:
        options = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        more = "".join(f", {name} {value}" for name, value in options.items() if value > 1)
        return f"{self.kernel[0]}x{self.kernel[1]}{more}"


def convolutions(model: str, height: int, width: int, batch: int) -> Counter[Convolution]:
    """Those of a network's forward pass in training, and how often each occurs."""
    given = {"dtype": "float32", "remat": "", "sync_bn": False, "frozen_bn": False, "options": {}}
    network = models.create(ConfigDict({"name": model} | given), 1000, "batch")
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    with as_accelerator():  # where a convolution is a convolution
        traced = jax.make_jaxpr(lambda images: network.init_with_output(jax.random.key(0), images, train=False))(images)
    return Counter(_found(traced.jaxpr))


def _found(jaxpr: Any) -> Iterator[Convolution]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            image, kernel = (each.aval.shape for each in equation.invars)
            given = equation.params
            yield Convolution(
                image,
                kernel,
                given["window_strides"][0],
                given["padding"][0][0],
                given["rhs_dilation"][0],
                given["feature_group_count"],
            )
        for inner in jaxprs_in_params(equation.params):
            yield from _found(inner)


def here(of: Convolution, image: np.ndarray, kernel: np.ndarray, dy: np.ndarray) -> dict[str, Callable[[], None]]:
    options = {"pad": of.pad, "dilation": of.dilation, "groups": of.groups, "dtype": jnp.float32, "name": "conv"}
    module = conv(kernel.shape[-1], kernel.shape[0], of.stride, **options)

    def apply(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return module.apply({"params": {"kernel": kernel}}, image)

    works = (
        lambda image, kernel, dy: apply(image, kernel),
        lambda image, kernel, dy: jax.vjp(lambda image: apply(image, kernel), image)[1](dy),
        lambda image, kernel, dy: jax.vjp(lambda kernel: apply(image, kernel), kernel)[1](dy),
    )
    arguments = jax.device_put((image, kernel, dy))

    def run(work: Callable) -> Callable[[], None]:
        program = jax.jit(work, compiler_options=compiler_options())
        return lambda: jax.block_until_ready(program(*arguments))

    return {name: run(work) for name, work in zip(WORKS, works, strict=True)}


def in_torch(of: Convolution, image: np.ndarray, kernel: np.ndarray, dy: np.ndarray) -> dict[str, Callable[[], Any]]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    x, y = (torch.from_numpy(each).permute(0, 3, 1, 2) for each in (image, dy))
    weight = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    options = [[of.stride] * 2, [of.pad] * 2, [of.dilation] * 2]

    def gradient(image: bool, kernel: bool) -> Any:
        wanted = [image, kernel, False]
        return torch.ops.aten.convolution_backward(y, x, weight, None, *options, False, [0, 0], of.groups, wanted)

    works = (
        lambda: torch.nn.functional.conv2d(x, weight, None, *options, of.groups),
        lambda: gradient(True, False),
        lambda: gradient(False, True),
    )
    return dict(zip(WORKS, works, strict=True))


def measure(of: Convolution, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Work -> who -> seconds of one call."""
    rng = np.random.default_rng(0)
    image, kernel = (rng.normal(size=shape).astype(np.float32) for shape in (of.image, of.kernel))
    reach = (of.kernel[0] - 1) * of.dilation
    sides = ((side + 2 * of.pad - reach - 1) // of.stride + 1 for side in of.image[1:3])
    dy = rng.normal(size=(of.image[0], *sides, of.kernel[-1])).astype(np.float32)
    who = {"morphism": here(of, image, kernel, dy), "torch": in_torch(of, image, kernel, dy)}
    found = {}
    for work in WORKS:
        if work == "gradient of input" and of.image[-1] == 3:  # of photographs nobody needs it
            continue
        runs = {name: each[work] for name, each in who.items()}
        turns.medians(runs, 2)  # compiles
        found[work] = turns.medians(runs, rounds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="resnet50", choices=sorted(models.models()))
    parser.add_argument("size", nargs="?", default="224x224", type=turns.sides)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "convolutions.json")
    args = parser.parse_args()
    seconds: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for of, count in convolutions(args.model, *args.size, args.batch).items():
        for work, row in measure(of, args.rounds).items():
            for who, each in row.items():
                seconds[of.kind, work][who] += count * each["cpu"]
                seconds["all", "all"][who] += count * each["cpu"]
    print(f"{'convolution':24}{'work':20}{'CPU ms':>9}{'torch':>9}{'x torch':>9}")
    for (kind, work), row in sorted(seconds.items()):
        ratio = row["morphism"] / row["torch"]
        print(f"{kind:24}{work:20}{1e3 * row['morphism']:9.0f}{1e3 * row['torch']:9.0f}{ratio:9.2f}")
    turns.write(args, [{"kind": kind, "work": work, **row} for (kind, work), row in seconds.items()])


if __name__ == "__main__":
    main()
