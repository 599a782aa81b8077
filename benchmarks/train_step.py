"""The training step of a ResNet, here and in other libraries: forward, cross-entropy, backward, SGD with momentum.

    python benchmarks/train_step.py [--model resnet50] [--size 224] [--batch 8] [--dtype bfloat16] [--rounds 5]
    python benchmarks/train_step.py --forward --batch 1         inference: only the logits of evaluation

Compares this project's model, a plain Flax model like that of Flax's ImageNet example, and, if they are installed
(neither is a dependency), keras.applications on JAX and torch. All take turns within every round; the table gives
medians over rounds. On a shared machine only CPU seconds and the ratios count.
"""

import argparse
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # otherwise torch's waiting threads use CPU seconds

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import turns
from ml_collections import ConfigDict

from morphism import models
from morphism.ops.platform import on_cpu
from morphism.runtime.mesh import compiler_options

STAGES = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
KERAS = {"resnet50": "ResNet50", "resnet101": "ResNet101", "resnet152": "ResNet152"}
RATE, MOMENTUM = 0.01, 0.9


class Plain(nn.Module):
    """A ResNet of nn.Conv and nn.BatchNorm, as in flax/examples/imagenet/models.py."""

    bottleneck: bool
    stages: tuple[int, ...]
    classes: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        x = nn.relu(norm()(conv(64, (7, 7), (2, 2), padding=3)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.stages):
            channels = 64 * 2**stage
            for index in range(blocks):
                stride = (2, 2) if stage > 0 and index == 0 else (1, 1)
                if self.bottleneck:
                    y = nn.relu(norm()(conv(channels, (1, 1))(x)))
                    y = nn.relu(norm()(conv(channels, (3, 3), stride, padding=1)(y)))
                    y = norm()(conv(4 * channels, (1, 1))(y))
                else:
                    y = nn.relu(norm()(conv(channels, (3, 3), stride, padding=1)(x)))
                    y = norm()(conv(channels, (3, 3), padding=1)(y))
                if x.shape != y.shape:
                    x = norm()(conv(y.shape[-1], (1, 1), stride)(x))
                x = nn.relu(x + y)
        return nn.Dense(self.classes, dtype=self.dtype)(jnp.mean(x, axis=(1, 2))).astype(jnp.float32)


def flax_step(
    args: argparse.Namespace, model: nn.Module, images: np.ndarray, labels: np.ndarray, options: dict | None = None
) -> Callable:
    optimizer = optax.sgd(RATE, MOMENTUM)
    variables = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, *images.shape[1:])), train=False))()
    if args.forward:
        return forward(
            lambda variables, images: model.apply(variables, images, train=False), variables, images, options
        )

    @partial(jax.jit, donate_argnums=0, compiler_options=options)
    def step(state, images, labels):
        params, stats, opt_state = state

        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates["batch_stats"]

        gradients, new_stats = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), new_stats, opt_state

    return repeat(
        step, (variables["params"], variables["batch_stats"], optimizer.init(variables["params"])), images, labels
    )


def repeat(step: Callable, state, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """A function that runs one step on a batch that is on the device, and waits for it."""
    images, labels = jax.device_put((images, labels))

    def run():
        nonlocal state
        state = jax.block_until_ready(step(state, images, labels))

    return run


def forward(apply: Callable, variables, images: np.ndarray, options: dict | None = None) -> Callable[[], None]:
    """A function that computes the logits of a batch that is on the device, and waits for them."""
    apply, images = jax.jit(apply, compiler_options=options), jax.device_put(images)
    return lambda: jax.block_until_ready(apply(variables, images))


def morphism(args, images, labels):
    config = ConfigDict(
        {"name": args.model, "dtype": args.dtype, "remat": False, "sync_bn": False, "frozen_bn": False, "options": {}}
    )
    return flax_step(args, models.create(config, args.classes, "batch"), images, labels, compiler_options())


def plain_linen(args, images, labels):
    return flax_step(args, Plain(*STAGES[args.model], args.classes, jnp.dtype(args.dtype)), images, labels)


def keras_on_jax(args, images, labels):
    """Keras' stateless functions; its ResNet has biases and the stride on the first 1x1 convolution of a block."""
    import keras

    keras.mixed_precision.set_global_policy("mixed_bfloat16" if args.dtype == "bfloat16" else "float32")
    make = getattr(keras.applications, KERAS[args.model])
    model = make(weights=None, input_shape=images.shape[1:], classes=args.classes, classifier_activation=None)
    if args.forward:
        variables = [[v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables)]
        return forward(lambda v, images: model.stateless_call(*v, images, training=False)[0], variables, images)
    optimizer = keras.optimizers.SGD(RATE, MOMENTUM)
    optimizer.build(model.trainable_variables)

    @partial(jax.jit, donate_argnums=0)
    def step(state, images, labels):
        params, stats, opt_state = state

        def loss(params):
            logits, updates = model.stateless_call(params, stats, images, training=True)
            logits = logits.astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

        gradients, new_stats = jax.grad(loss, has_aux=True)(params)
        params, opt_state = optimizer.stateless_apply(opt_state, gradients, params)
        return params, new_stats, opt_state

    groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    return repeat(step, tuple([v.value for v in group] for group in groups), images, labels)


def torch_resnet(name: str, classes: int):
    """The ResNet `name` as torchvision has it, without pretrained weights or its initialisation."""
    from torch import nn as tnn

    class Block(tnn.Module):
        def __init__(self, inputs, channels, stride, bottleneck):
            super().__init__()
            kernels = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
            outputs = channels * (4 if bottleneck else 1)
            widths = [inputs] + [channels] * (len(kernels) - 1) + [outputs]
            layers = []
            for before, after, (kernel, step) in zip(widths, widths[1:], kernels, strict=False):
                conv = tnn.Conv2d(before, after, kernel, step, kernel // 2, bias=False)
                layers += [conv, tnn.BatchNorm2d(after), tnn.ReLU(inplace=True)]
            self.body = tnn.Sequential(*layers[:-1])
            self.shortcut = tnn.Identity()
            if stride > 1 or inputs != outputs:
                projection = tnn.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.shortcut = tnn.Sequential(projection, tnn.BatchNorm2d(outputs))

        def forward(self, x):
            return tnn.functional.relu(self.body(x) + self.shortcut(x), inplace=True)

    bottleneck, stages = STAGES[name]
    layers = [
        tnn.Conv2d(3, 64, 7, 2, 3, bias=False),
        tnn.BatchNorm2d(64),
        tnn.ReLU(inplace=True),
        tnn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    for stage, blocks in enumerate(stages):
        for index in range(blocks):
            stride = 2 if stage > 0 and index == 0 else 1
            layers.append(Block(inputs, 64 * 2**stage, stride, bottleneck))
            inputs = 64 * 2**stage * (4 if bottleneck else 1)
    return tnn.Sequential(*layers, tnn.AdaptiveAvgPool2d(1), tnn.Flatten(), tnn.Linear(inputs, classes))


def torch_eager(args, images, labels):
    """Channels last, as torch recommends for convolutions, on all available cores."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() and not on_cpu() else "cpu"
    model = torch_resnet(args.model, args.classes)
    model = model.to(device, memory_format=torch.channels_last).train(not args.forward)
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
    y = torch.from_numpy(labels).long().to(device)

    def run():
        optimizer.zero_grad(set_to_none=True)
        with (
            torch.inference_mode(args.forward),
            torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16"),
        ):
            logits = model(x)
        if not args.forward:
            torch.nn.functional.cross_entropy(logits.float(), y).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def contenders(args) -> dict[str, Callable]:
    """Those that have the model and are installed; Keras has no ResNet with basic blocks."""
    found = {"morphism": morphism}
    if args.model in STAGES:
        found["plain linen"] = plain_linen
    if args.model in KERAS and importlib.util.find_spec("keras"):
        found["keras on jax"] = keras_on_jax
    if args.model in STAGES and importlib.util.find_spec("torch"):
        found["torch"] = torch_eager
    return found


def measure(args) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(args.batch, args.size, args.size, 3)).astype(np.float32)
    labels = rng.integers(args.classes, size=args.batch).astype(np.int32)
    steps = {}
    for name, make in contenders(args).items():
        steps[name] = make(args, images, labels)
        steps[name]()  # compiles
        steps[name]()
    return turns.medians(steps, args.rounds, args.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", choices=sorted(models.models()))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--dtype", default="float32", choices=sorted(models.DTYPES))
    parser.add_argument("--forward", action="store_true", help="only the forward pass of evaluation")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps per contender and round")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "train_step.json")
    args = parser.parse_args()

    results = measure(args)
    plain = results.get("plain linen")
    device = jax.devices()[0].device_kind
    print(
        f"{args.model}, {'forward' if args.forward else 'training step'}, {args.size}x{args.size}, batch {args.batch}, "
        f"{args.dtype}, {device}, medians of {args.rounds}"
    )
    print(f"{'':14}{'CPU s':>8}{'wall s':>8}{'images/s':>10}{'CPU, x plain':>14}{'wall, x plain':>15}")
    for name, row in results.items():
        row["images_per_s"] = args.batch / row["wall"]
        line = f"{name:14}{row['cpu']:8.3f}{row['wall']:8.3f}{row['images_per_s']:10.1f}"
        if plain:
            row["cpu_speedup"], row["wall_speedup"] = plain["cpu"] / row["cpu"], plain["wall"] / row["wall"]
            line += f"{row['cpu_speedup']:14.2f}{row['wall_speedup']:15.2f}"
        print(line)

    settings = {name: value for name, value in vars(args).items() if name != "output"}
    record = {"device": device, "cores": os.cpu_count(), "jax": jax.__version__, **settings, "results": results}
    turns.save(args.output, record)


if __name__ == "__main__":
    main()
