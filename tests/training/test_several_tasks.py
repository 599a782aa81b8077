"""Several tasks in one training step: partial labels, any number of devices, and weights that are learned."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from morphism import tasks
from morphism.experiments.base import get_base
from morphism.models.detection import Detector, mean_over_images
from morphism.ops.losses import cross_entropy
from morphism.runtime.mesh import replicated, to_devices
from morphism.tasks.composed import Composed, Part
from morphism.training.hyper import hyper_parameters, on_devices
from morphism.training.state import init_state
from morphism.training.step import make_train_step, optimizer_of

SIDE, SLOTS, ROWS, RATE = 12, 3, 8, 0.5
COUNTS = {"ground": 3, "kind": 4, "objects": 2}
TASK = Composed(
    (
        Part("objects", tasks.get("detection"), 0.5),
        Part("ground", tasks.get("segmentation"), 2.0),
        Part("kind", tasks.get("classification")),
    )
)
KEYS = {"objects": "boxes", "ground": "segmentation", "kind": "label"}


class Boxes(Detector):
    """Reads a box, and the logits of its class, per slot. The loss of an image is a mean over its objects."""

    def loss(self, outputs, targets):
        used = targets["classes"] >= 0
        distance = jnp.abs(outputs["boxes"] - targets["boxes"] / SIDE).mean(-1)
        each = jax.vmap(cross_entropy)(outputs["class_logits"], jnp.maximum(targets["classes"], 0))
        means = {
            name: jnp.sum(used * x, -1) / jnp.maximum(used.sum(-1), 1)
            for name, x in {"box": distance, "class": each}.items()
        }
        return mean_over_images(means, targets["valid"])


class Network(nn.Module):
    """Only these `parts`; `learned`: with trained variances."""

    reads = ()
    parts: tuple = tuple(KEYS)
    learned: bool = False

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.tanh(nn.Conv(4, (3, 3), 2, name="stem")(images))
        found = nn.Dense(SLOTS * 6, name="boxes")(x.reshape(len(x), -1)).reshape(-1, SLOTS, 6)
        logits = nn.Conv(3, (1, 1), name="classes")(x).repeat(2, axis=1).repeat(2, axis=2)
        outputs = {
            "objects": {"boxes": found[..., :4], "class_logits": found[..., 4:]},
            "ground": {"out": logits},
            "kind": nn.Dense(4, name="kind")(x.mean((1, 2))),
        }
        if self.learned:
            zeros = nn.initializers.zeros
            outputs["log_variance"] = {part: self.param(f"log_variance.{part}", zeros, ()) for part in self.parts}
        return outputs

    @nn.nowrap
    def reader(self, part):
        return Boxes() if part == "objects" else self


class Single(Detector):
    """One part of the network, as a model of its own."""

    reads = ()
    part: str

    @nn.compact
    def __call__(self, images, *, train):
        return Network(name="network")(images, train=train)[self.part]

    @nn.nowrap
    def loss(self, outputs, targets):
        return Boxes().loss(outputs, targets)


@pytest.fixture
def config():
    config = get_base("multitask", {part.name: part.task.name for part in TASK.parts})
    config.augment.closing = "0"
    config.optimizer.update(name="sgd", learning_rate=RATE)
    config.schedule.update(name="constant", warmup="0")
    config.update(batch_size=ROWS, duration="100")
    return TASK.resolve(config, _Named(100))


class _Named(list):
    """A source as far as `resolve` needs one."""

    def __init__(self, count):
        super().__init__([None] * count)
        self.classes, self.targets = ("a", "b"), {key: ("a", "b") for key in KEYS.values()}


def batch_of(step, **has):
    """A batch of noise; has: part -> the rows that carry its truth."""
    rng = np.random.default_rng(step)
    corner = rng.uniform(0, 6, (ROWS, SLOTS, 2))
    batch = {
        "image": rng.integers(0, 256, (ROWS, SIDE, SIDE, 3)).astype(np.uint8),
        "size": np.full((ROWS, 2), SIDE, np.int32),
        "image_box": np.tile(np.float32([0, 0, SIDE, SIDE]), (ROWS, 1)),
        "boxes": np.concatenate([corner, corner + 4], -1).astype(np.float32),
        "classes": rng.integers(-1, 2, (ROWS, SLOTS)).astype(np.int32),
        "crowd": np.zeros((ROWS, SLOTS), bool),
        "segmentation": rng.integers(0, 3, (ROWS, SIDE, SIDE)).astype(np.uint8),
        "label": rng.integers(0, 4, ROWS).astype(np.int32),
        "id": np.arange(ROWS, dtype=np.int32),
        "draw": np.full(ROWS, step, np.int32),
        "valid": np.ones(ROWS, bool),
    }
    return batch | {f"has_{key}": np.isin(np.arange(ROWS), has.get(part, ())) for part, key in KEYS.items()}


def first_state(network, config, hyper):
    return init_state(network, optimizer_of(config, hyper), image_size=SIDE, seed=0, ema=False)


def training(config, mesh, network=None, task=TASK, classes=COUNTS):
    """A function from batches, and perhaps first parameters, to the parameters and scalars after each of them."""
    network = network or Network()
    hyper = on_devices(hyper_parameters(config, 10), mesh)
    step = make_train_step(model=network, task=task, config=config, classes=classes, mesh=mesh)

    def run(batches, params=None):
        state = first_state(network, config, hyper)
        state = jax.device_put(state if params is None else state.replace(params=params), replicated(mesh))
        history = []
        for _, batch in to_devices(iter(batches), mesh):
            state, scalars = step(state, batch, hyper)
            history.append(jax.device_get((state.params, scalars)))
        return history

    return run


def assert_same(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def test_with_disjoint_labels_a_step_is_the_sum_of_the_single_tasks_steps(config, mesh_of):
    """Half of the rows have boxes, the others a mask; each single task gets its half alone."""
    halves = {"objects": range(4), "ground": range(4, 8)}
    params = jax.device_get(first_state(Network(), config, hyper_parameters(config, 10)).params)
    together = training(config, mesh_of(1))
    alone = {
        part.name: training(part.config(config), mesh_of(1), Single(part.name), part.task, COUNTS[part.name])
        for part in TASK.parts[:2]
    }
    for number in range(3):
        batch = batch_of(number, **halves)
        ((after, scalars),) = together([batch], params)
        expected = params
        for part in TASK.parts[:2]:
            own = {name: value[list(halves[part.name])] for name, value in batch.items()}
            ((moved, single),) = alone[part.name]([own], {"network": params})
            assert scalars[f"{part.name}/loss"] == pytest.approx(float(single["loss"]), rel=1e-5)
            expected = jax.tree.map(
                lambda x, now, before, w=part.weight: x + w * (now - before), expected, moved["network"], params
            )
        assert scalars["kind/loss"] == scalars["kind/top1"] == 0
        assert_same(after, expected, rtol=1e-4, atol=1e-6)
        assert max(np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (after, params)), strict=True)) > 1e-3
        params = after


@pytest.mark.parametrize(("devices", "accumulate", "learned"), [(4, 1, False), (1, 4, True), (2, 2, True)])
def test_a_step_is_the_same_on_any_number_of_devices(config, mesh_of, devices, accumulate, learned):
    """Devices and micro-batches have different numbers of labelled rows, some none."""
    batches = [
        batch_of(0, objects=(0, 1, 2), ground=(1, 5, 6, 7), kind=(7,)),
        batch_of(1, objects=(), ground=(3,), kind=range(1, 8)),
    ]
    network = Network(learned=learned)
    one = training(config, mesh_of(1), network)(batches)
    with config.unlocked():
        config.accumulate = accumulate
    several = training(config, mesh_of(devices), network)(batches)
    assert_same(one, several, rtol=2e-5, atol=1e-6)
    assert one[1][1]["objects/loss"] == 0 and one[0][1]["objects/loss"] > 0


def test_learned_weights_are_kendalls(config, mesh_of):
    batches = [batch_of(number, objects=(0, 2), ground=range(8)) for number in range(2)]
    before, (params, scalars) = training(config, mesh_of(1), Network(learned=True))(batches)
    s = {part: before[0][f"log_variance.{part}"] for part in KEYS}
    assert s["kind"] == 0 and s["objects"] != 0  # a part without truths is not learned, nor its weight
    total = 0
    for part in TASK.parts[:2]:
        loss = part.weight * scalars[f"{part.name}/loss"]
        total += np.exp(-s[part.name]) * loss + s[part.name] / 2
        moved = s[part.name] - RATE * (0.5 - np.exp(-s[part.name]) * loss)
        assert params[f"log_variance.{part.name}"] == pytest.approx(moved, rel=1e-5)
        assert scalars[f"{part.name}/log_variance"] == pytest.approx(s[part.name])
    assert scalars["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("part", "losses"),
    [
        ("kind", [{"name": name} for name in ("cross_entropy", "bce", "focal")]),
        ("kind", [{"name": "cross_entropy", "class_weights": (1.0, 2.0, 3.0, 4.0)}]),
        ("ground", [{"name": name} for name in ("cross_entropy", "focal", "ohem", "lovasz", "dice")]),
        ("ground", [{"name": "cross_entropy", "class_weights": (1.0, 2.0, 3.0), "dice_weight": 1.0}]),
    ],
)
def test_a_part_without_truths_has_no_loss_and_no_gradient(config, part, losses):
    own = next(each for each in TASK.parts if each.name == part)
    outputs = {"kind": jnp.full((ROWS, 4), 0.3), "ground": {"out": jnp.full((ROWS, SIDE, SIDE, 3), 0.2)}}[part]
    batch = jax.tree.map(jnp.asarray, batch_of(0))
    if part == "kind":
        batch["label"] = jnp.full(ROWS, -1)
    for loss in losses:
        with config.ignore_type():
            config.parts[part].loss.update(ConfigDict(loss))

        def value(outputs):
            return own.task.loss(Network(), outputs, own.batch(batch), own.config(config))[0]

        found, gradient = jax.jit(jax.value_and_grad(value))(outputs)
        assert found == 0 and not any(np.any(x) for x in jax.tree.leaves(gradient)), loss
