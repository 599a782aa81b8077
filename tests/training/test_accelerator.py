"""The form that GPUs and TPUs run, traced on CPU through the real steps, on a mesh of two devices.

What makes it fail there fails in tracing: every architecture, augmentation, loss and way of evaluating is traced, and
where the two forms differ both are run and compared. ops/platform.py decides which form is taken.
"""

import re
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shallow import shallow, shallow_backbones

from morphism import models, tasks
from morphism.data import examples, sources
from morphism.data.pipeline import train_batches
from morphism.evaluation.step import make_eval_step
from morphism.experiments.base import FIELDS, get_base
from morphism.experiments.fields import flat
from morphism.models.detection import Detector
from morphism.models.layers import BatchNorm, max_pool, relu
from morphism.models.mask_rcnn import MaskRCNN
from morphism.ops.resize import resize_bilinear
from morphism.runtime.mesh import AXIS, replicated, to_devices
from morphism.runtime.validation import check_config
from morphism.training.hyper import hyper_parameters
from morphism.training.state import eval_variables, init_state
from morphism.training.step import make_train_step, optimizer_of

ROWS, CLASSES = 16, 3  # of a batch on two devices, in two micro-batches
# The parts of networks that have several; they are traced with trained weights of the losses.
PARTS = {
    "multitask": {"objects": "detection", "ground": "segmentation", "kind": "classification"},
    "panoptic_fpn_resnet50": {"instances": "instances", "segmentation": "segmentation"},
}
SIDES = {"ssd300_vgg16": 300, "alexnet": 64}  # else 32, or 64 for detectors

# What switches each field of augment and loss on. Those that only the host reads are no part of a step.
HOST = {
    "classification": set(),
    "detection": {"zoom_out", "iou_crop", "scale_jitter"},
    "segmentation": {"elastic"},
}
COLOURS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "lighting": 0.1}
EVERYWHERE = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "flip_probability": 0.3}
SETTINGS = {  # (augment, loss) of a step each
    "classification": [
        (
            {
                **EVERYWHERE,
                **COLOURS,
                **{"crop_padding": 2, "auto": "randaugment", "auto_operations": 1, "auto_magnitude": 5},
                **{"erase_probability": 0.5, "mixup_alpha": 0.2, "cutmix_alpha": 1.0},
            },
            {"name": "bce", "label_smoothing": 0.1, "class_weights": (1.0, 2.0, 3.0), "bce_threshold": 0.2},
        ),
        ({"auto": "trivialaugment", "mixup_alpha": 0.2}, {"name": "focal", "focal_alpha": 0.5, "focal_gamma": 1.0}),
        ({"cutmix_alpha": 1.0}, {"name": "cross_entropy", "label_smoothing": 0.1, "class_weights": (1.0, 2.0, 3.0)}),
    ],
    "detection": [
        ({**EVERYWHERE, "photometric": True, "fill": 114}, {}),
        (
            {
                **{"mosaic": 1.0, "degrees": 5.0, "translate": 0.2, "scale": (0.5, 1.5), "shear": 1.0, "mixup": 0.5},
                **{"mixup_scale": (0.8, 1.2), "hsv": (5.0, 30.0, 30.0), "closing": "3"},
            },
            {},
        ),
    ],
    "segmentation": [
        (
            {**EVERYWHERE, "photometric": True, "fill": 0},
            {"name": "cross_entropy", "class_weights": (1.0, 2.0, 3.0), "dice_weight": 1.0},
        ),
        ({}, {"name": "focal", "focal_gamma": 1.0}),
        ({}, {"name": "ohem", "ohem_threshold": 0.6, "ohem_pixels": 10}),
        ({}, {"name": "lovasz", "aux_weight": 0.4}),
        ({}, {"name": "dice"}),
    ],
}
# The smallest network of each task for them. Auxiliary heads learn by the default loss where architectures are traced.
SMALL = {
    "classification": ("cifar_resnet8", {}),
    "detection": ("ssd300_vgg16", {}),
    "segmentation": ("unet", {"stages": 1, "width": 2}),
}


@pytest.fixture
def accelerator(monkeypatch):
    """Whatever is traced takes the accelerators' form; backbones have one block a stage."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with shallow_backbones():
        yield


def kinds():
    """Of each kind of architecture, as `shallow` leaves it, the first name."""
    found = {}
    for name, constructor in sorted(models.models().items()):
        constructor = partial(constructor, **shallow(name))
        found.setdefault((constructor.func, str(sorted(constructor.keywords.items()))), name)
    return sorted(found.values())


def task_of(name):
    """The task whose experiments a model is for: by what it returns."""
    if name in PARTS:
        return "multitask"
    model = models.models()[name](num_classes=CLASSES)
    if isinstance(model, Detector):
        return "instances" if isinstance(model, MaskRCNN) else "detection"
    config = get_base().model
    config.name = name
    model = models.create(config, CLASSES, AXIS)
    outputs = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), train=False)[0]
    )
    return "segmentation" if isinstance(outputs, dict) else "classification"


class OfAnyLength:
    classes = ("a", "b", "c")[:CLASSES]
    targets = dict.fromkeys(("boxes", "masks", "segmentation", "label"), classes)

    def __len__(self):
        return 100

    def __getitem__(self, index):
        raise NotImplementedError


def configured(task, name, options, augment=(), loss=()):
    config = get_base(task, PARTS.get(name))
    config.model.name = name
    with config.model.options.unlocked():
        config.model.options.update(options)
    config.batch_size = ROWS
    config.accumulate = 2
    config.data.pixels = "uint8"
    side = SIDES.get(name, 64 if task in ("detection", "instances", "multitask") else 32)
    config.data.image_size = side
    if task == "segmentation":
        config.data.crop = (side, side)
    config.augment.update(dict(augment))
    if loss:
        config.loss.update(dict(loss))
    return tasks.of(config).resolve(config, OfAnyLength())


def batch_of(config, training=True):
    """The shapes and types of a batch, as data/pipeline.py makes them."""
    side = config.data.image_size
    shape = (side, side) if training or "segmentation" not in config.data.targets else (side, side, side, side)
    batch = {
        "image": np.zeros((ROWS, side, side, 3), config.data.pixels),
        "id": np.zeros(ROWS, np.int32),
        "draw": np.zeros(ROWS, np.int32),
        "valid": np.zeros(ROWS, bool),
        **examples.empty(ROWS, shape, config, training),
    }
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)


def trace(config, mesh, views=("center",)):
    """Traces the training step, and the evaluation step with each of `views`, and returns what each gives."""
    task = tasks.of(config)
    classes = {part: CLASSES for part in config.parts} if "parts" in config else CLASSES
    model = models.create(config.model, classes, AXIS)
    hyper = hyper_parameters(config, 100)
    optimizer = optimizer_of(config, hyper)
    state = jax.eval_shape(lambda: init_state(model, optimizer, image_size=config.data.image_size, seed=0, ema=True))
    train_step = make_train_step(model=model, task=task, config=config, classes=classes, mesh=mesh)
    after, scalars = jax.eval_shape(train_step, state, batch_of(config), hyper)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert scalars.keys() >= {"loss", "grad_norm"} and not any(value.shape for value in scalars.values())
    for each in views:
        eval_step = make_eval_step(model, task, config, mesh, each)
        predictions = jax.eval_shape(eval_step, eval_variables(state), batch_of(config, training=False))
        assert predictions["id"].shape == predictions["valid"].shape == (ROWS,)


@pytest.mark.parametrize("name", kinds())
def test_every_architecture_is_traced(accelerator, mesh_of, name):
    """In bfloat16, as accelerators train; what follows is in float32."""
    learned = {"loss_weights": "learned"} if name in PARTS else {}
    config = configured(task_of(name), name, shallow(name) | learned)
    config.model.dtype = "bfloat16"
    trace(config, mesh_of(2))


@pytest.mark.parametrize(("task", "row"), [(task, row) for task, rows in SETTINGS.items() for row in range(len(rows))])
def test_every_augmentation_and_loss_is_traced(accelerator, mesh_of, task, row):
    config = configured(task, *SMALL[task], *SETTINGS[task][row])
    check_config(config)
    trace(config, mesh_of(2), views=())


@pytest.mark.parametrize("row", range(2))
def test_automatic_augmentation_of_high_bit_images_is_traced(accelerator, mesh_of, row):
    config = configured("classification", *SMALL["classification"], *SETTINGS["classification"][row])
    config.data.pixels = "float32"
    trace(config, mesh_of(2), views=())


@pytest.mark.parametrize("task", [task for task in SETTINGS if len(tasks.get(task).views) > 1])
def test_every_view_is_traced(accelerator, mesh_of, task):
    config = configured(task, *SMALL[task])
    config.accumulate = 1
    if task == "classification":
        config.data.eval_size = 24
    if task == "segmentation":
        config.data.update(window=(24, 24), view_scales=(1.0, 1.5))
    trace(config, mesh_of(2), tasks.get(task).views)


@pytest.mark.parametrize("task", SETTINGS)
def test_no_augmentation_or_loss_is_left_out(task):
    base = get_base(task)
    for group, part in (("augment", 0), ("loss", 1)):
        touched = {field: value for setting in SETTINGS[task] for field, value in setting[part].items()}
        fields = set(base.get(group, {}))
        assert fields - (HOST[task] if group == "augment" else set()) == touched.keys()
    declared = flat(FIELDS[task])
    if "loss.name" in declared:
        assert {loss["name"] for _, loss in SETTINGS[task]} == set(declared["loss.name"].range.choices)
    if "augment.auto" in declared:
        assert {augment.get("auto", "") for augment, _ in SETTINGS[task]} == set(declared["augment.auto"].range.choices)


class Tiny(nn.Module):
    """Layers that have two forms, in as few operations as can be; tests/models/test_layers.py compares each."""

    reads = ()

    norm: partial

    @nn.compact
    def __call__(self, images, *, train):
        x = max_pool(resize_bilinear(images, 12, 10), 3, 2, 1)
        x = relu(self.norm(train=train, name="bn")(nn.Dense(4, name="dense")(x)))
        return nn.Dense(10, name="fc")(jnp.mean(x, axis=(1, 2)))


def test_both_forms_train_alike(config, mesh_of, monkeypatch):
    """Two micro-batches on each of two devices, through every automatic augmentation and colours in random order."""
    config.accumulate = 2
    config.augment.update(auto="randaugment", auto_operations=1, brightness=0.4, contrast=0.4)
    task, mesh = tasks.get("classification"), mesh_of(2)
    config.optimizer.name = "sgd"
    model, hyper = Tiny(partial(BatchNorm)), hyper_parameters(config, 100)
    source = sources.load(config.data, "train")
    _, batch = next(to_devices(train_batches(source, config, start_step=0, stop_step=1), mesh))

    before = jax.device_get(
        jax.jit(lambda: init_state(model, optimizer_of(config, hyper), image_size=8, seed=config.seed, ema=False))()
    )

    def trained():
        step = make_train_step(model=model, task=task, config=config, classes=10, mesh=mesh)
        state, scalars = step(jax.device_put(before, replicated(mesh)), batch, hyper)
        return jax.device_get((scalars, state.params, state.batch_stats))

    expected = trained()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for x, y in zip(jax.tree.leaves(trained()), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


def test_one_module_asks_which_device_it_is():
    root = Path(__file__).parents[2]
    asking = [
        str(path.relative_to(root))
        for folder in ("augment", "evaluation", "models", "ops", "tasks", "runtime", "training", "weights", "data")
        for path in sorted((root / folder).rglob("*.py"))
        if re.search(r"jax\.default_backend|\]\.platform", path.read_text())
    ]
    assert asking == ["ops/platform.py", "runtime/surroundings.py"]  # which records what it says
