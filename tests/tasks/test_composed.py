"""Two tasks over one small network: they train together, and each is judged as it is alone."""

import pickle
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from morphism import models, tasks
from morphism.data.oddities import Oddities
from morphism.data.pipeline import train_batches
from morphism.data.sources import load, scene_masks, scenes
from morphism.errors import UserError
from morphism.evaluation import loop
from morphism.evaluation.step import make_eval_step
from morphism.experiments.base import get_base
from morphism.models.detection import Detector
from morphism.ops.losses import cross_entropy
from morphism.ops.resize import resize_bilinear
from morphism.runtime.mesh import replicated, to_devices
from morphism.tasks.composed import Composed, Part
from morphism.tasks.fusion import Fusion
from morphism.tasks.panoptic import Categories
from morphism.training.hyper import hyper_parameters, on_devices
from morphism.training.state import init_state
from morphism.training.step import make_train_step, optimizer_of

SIDE, SLOTS = 32, 6
CLASSES = {"ground": scene_masks.CLASSES, "objects": scenes.CLASSES}
COUNTS = {part: len(names) for part, names in CLASSES.items()}
TASK = Composed((Part("ground", tasks.get("segmentation")), Part("objects", tasks.get("detection"), 0.25)))


class Boxes(Detector):
    """Reads a box, and the logits of its class, for each of a few slots."""

    def loss(self, outputs, targets):
        used = targets["classes"] >= 0
        count = jnp.maximum(jnp.sum(used), 1)
        distance = jnp.abs(outputs["boxes"] - targets["boxes"]).mean(-1) / SIDE
        each = cross_entropy(outputs["class_logits"].reshape(-1, 5), jnp.maximum(targets["classes"], 0).ravel())
        return {
            "box": jnp.sum(jnp.where(used, distance, 0)) / count,
            "class": jnp.sum(jnp.where(used.ravel(), each, 0)) / count,
        }

    def detect(self, outputs, sizes):
        p = jax.nn.softmax(outputs["class_logits"])
        boxes = jnp.sort(outputs["boxes"].reshape(-1, SLOTS, 2, 2), axis=2).reshape(-1, SLOTS, 4)
        return {"boxes": boxes, "scores": p.max(-1), "classes": p.argmax(-1), "valid": jnp.ones(p.shape[:2], bool)}


class Network(nn.Module):
    reads = ()

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(nn.Conv(8, (5, 5), 4, name="stem")(images))
        found = nn.Dense(SLOTS * 9, name="boxes")(x.reshape(len(x), -1)).reshape(-1, SLOTS, 9)
        return {
            "ground": {"out": resize_bilinear(nn.Conv(6, (1, 1), name="classes")(x), *images.shape[1:3])},
            "objects": {"boxes": SIDE * nn.sigmoid(found[..., :4]), "class_logits": found[..., 4:]},
        }

    @nn.nowrap
    def reader(self, part):
        return Boxes() if part == "objects" else self


class Only(Detector):
    """One part of the network, as a model of its own."""

    reads = ()
    part: str

    @nn.compact
    def __call__(self, images, *, train):
        return Network(name="network")(images, train=train)[self.part]

    @nn.nowrap
    def detect(self, outputs, sizes):
        return Boxes().detect(outputs, sizes)


@pytest.fixture(scope="module")
def config():
    config = get_base("segmentation").copy_and_resolve_references()
    with config.unlocked():
        config.parts = ConfigDict({"ground": {}, "objects": {"augment": {"closing": "0"}}})
        config.data.max_boxes = SLOTS
    config.data.update(source=f"scenes:48x{SIDE}", targets=TASK.targets, crop=(SIDE, SIDE), resize="none")
    config.update(batch_size=8, eval_batch_size=6)
    return config


@pytest.fixture(scope="module")
def variables():
    return jax.jit(lambda: models.init(Network(), jax.random.key(0), SIDE))()


def predicted(task, model, variables, config, mesh, source):
    step, variables = make_eval_step(model, task, config, mesh), jax.device_put(variables, replicated(mesh))
    return list(loop.predict(step, variables, source, config, mesh, Oddities(source, print)))


def test_what_processes_count_on_their_own_rows_adds_up(config, variables, mesh_of, monkeypatch):
    source = load(config.data, "val")
    batches = predicted(TASK, Network(), variables, config, mesh_of(2), source)
    counts = (4, len(batches[1].rows["id"]))  # rows of the first process; the second has none of the last batch

    def gathered(slices, first):
        return loop.gather(
            TASK,
            source,
            [
                loop.Predicted({name: value[own] for name, value in rows.items()}, totals if first else {})
                for (rows, totals), own in zip(batches, slices, strict=True)
            ],
        )

    own = [
        gathered([slice(count) for count in counts], True),
        gathered([slice(count, None) for count in counts], False),
    ]
    sent = [pickle.dumps(loop._counted(each)) for each in own]
    assert all(len(each) < 200_000 for each in sent)  # no source and no maps travel
    monkeypatch.setattr(loop, "exchanged", lambda mine: [pickle.loads(each) for each in sent])
    found, expected = TASK.summarise(loop.of_all_processes(own[1])), loop.evaluate(TASK, source, batches)
    assert found.keys() == expected.keys() and found["examples"] == len(source)
    np.testing.assert_allclose(jax.tree.leaves(found), jax.tree.leaves(expected), rtol=1e-9)


def test_both_parts_train_in_one_step(config, mesh_of):
    mesh, source = mesh_of(2), load(config.data, "train")
    resolved = TASK.resolve(config, source)
    resolved.optimizer.update(name="adam", learning_rate=1e-2)
    resolved.schedule.update(name="constant", warmup="0")
    hyper = on_devices(hyper_parameters(resolved, 6), mesh)
    optimizer = optimizer_of(resolved, hyper)
    step = make_train_step(model=Network(), task=TASK, config=resolved, classes=COUNTS, mesh=mesh)
    state = jax.device_put(init_state(Network(), optimizer, image_size=SIDE, seed=0, ema=False), replicated(mesh))
    history = []
    for _, batch in to_devices(train_batches(source, config, start_step=0, stop_step=12), mesh):
        state, scalars = step(state, batch, hyper)
        history.append(jax.device_get(scalars))
    for scalars in history:
        assert scalars["loss"] == pytest.approx(scalars["ground/loss"] + 0.25 * scalars["objects/loss"], rel=1e-5)
        assert scalars["objects/loss"] == pytest.approx(scalars["objects/box"] + scalars["objects/class"], rel=1e-5)
    for name in ("ground/loss", "objects/loss"):
        assert np.mean([each[name] for each in history[-6:]]) < np.mean([each[name] for each in history[:6]])
    assert {"ground/pixel_accuracy", "grad_norm"} < history[0].keys()


def test_what_depends_on_the_data_is_resolved_for_each_part(config):
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.loss.class_weights = "median_frequency"
    source = load(config.data, "train")
    resolved = TASK.resolve(config, source)
    expected = tasks.get("segmentation").resolve(config, TASK.parts[0].source(source))
    assert resolved.parts.ground.loss.to_dict() == expected.loss.to_dict() != config.loss.to_dict()
    assert resolved.augment.to_dict() == config.augment.to_dict()


def test_each_part_is_judged_as_it_is_alone(config, mesh_of, variables):
    mesh, source = mesh_of(2), load(config.data, "val")
    together = predicted(TASK, Network(), variables, config, mesh, source)
    summary = loop.evaluate(TASK, source, together)
    assert summary["examples"] == len(source) == 12
    assert TASK.headline[0] == "ground/miou" and "objects/ap" in TASK.higher_is_better
    table, lines = TASK.table(summary), TASK.lines(TASK.describe(together[0].rows, 2, CLASSES), 0.3, 2)
    for part in TASK.parts:
        own = part.source(source)
        alone = predicted(part.task, Only(part.name), {"params": {"network": variables["params"]}}, config, mesh, own)
        for found, expected in zip(together, alone, strict=True):
            for name, value in expected.rows.items():
                np.testing.assert_array_equal(found.rows[name if name == "id" else f"{part.name}/{name}"], value)
        metrics = loop.gather(part.task, own, alone)
        expected = loop.summarise(part.task, metrics)
        assert part.own(summary) == expected and part.own(table) == part.task.table(expected)
        described = part.task.describe(alone[0].rows, 2, CLASSES[part.name])
        own_lines = part.task.lines(described, 0.3, 2)
        assert [line[1:] for line in lines if line[0] == part.name] == own_lines
        files = [file for file in TASK.files(loop.gather(TASK, source, together), source)]
        expected_files = part.task.files(metrics, own)
        assert [file.value for file in files if file.name.startswith(part.name)] == [e.value for e in expected_files]
        plots = TASK.plots(loop.gather(TASK, source, together), summary)
        assert part.own(plots) == part.task.plots(metrics, expected)
    assert TASK.masks == ("ground",)
    np.testing.assert_array_equal(TASK.mask(together[0].rows, 1, "ground"), together[0].rows["ground/classes"][1])


def test_two_parts_of_one_task_read_truths_of_their_own(config):
    lanes = Part("lanes", tasks.get("segmentation"), keys={"segmentation": "lanes"})
    task = Composed((TASK.parts[0], lanes))
    assert task.targets == ("segmentation", "lanes")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.parts.lanes = ConfigDict({"loss": {"name": "focal"}})
    rng = np.random.default_rng(0)
    assert lanes.config(config).loss.name == "focal" and config.loss.name == "cross_entropy"
    outputs = {name: {"out": jnp.array(rng.normal(size=(2, 4, 5, 3)), jnp.float32)} for name in ("ground", "lanes")}
    batch = {name: jnp.array(rng.integers(0, 3, (2, 4, 5)), jnp.uint8) for name in ("segmentation", "lanes")}
    batch |= {name: jnp.ones(2, bool) for name in ("valid", "has_segmentation", "has_lanes")}
    batch = task.shared(batch, jnp.sum)
    _, scalars = task.loss(Network(), outputs, batch, config)
    for part, key in zip(task.parts, ("segmentation", "lanes"), strict=True):
        alone = batch | {"segmentation": batch[key]}
        expected, _ = part.task.loss(Network(), outputs[part.name], alone, part.config(config))
        assert scalars[f"{part.name}/loss"] == expected


def test_what_does_not_fit_names_the_part(config):
    outputs = jax.eval_shape(
        lambda: Network().init_with_output(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)), train=False)[0]
    )
    assert TASK.misfit(Network(), outputs, COUNTS) == ""
    assert TASK.misfit(Network(), outputs, COUNTS | {"ground": 4}) == "ground: 'out' has 6 outputs, the data 4 classes"
    assert TASK.misfit(Network(), outputs, COUNTS | {"objects": 9}).startswith("objects: its class_logits are 5 per")
    assert TASK.misfit(Network(), {"ground": outputs["ground"]}, COUNTS).startswith("its outputs have no 'objects'")
    with pytest.raises(UserError, match="x, ground, has 1 class .*; segmentation needs at least 2"):
        TASK.check_classes("x", {"ground": ("a",), "objects": ("b",)})
    mixing, base = Composed((Part("kind", tasks.get("classification")), *TASK.parts)), get_base()
    base.augment.mixup_alpha = 0.1
    with pytest.raises(UserError, match="it mixes images, but only the targets of kind"):
        mixing.mixed(base.augment)


def test_a_composed_task_checks_the_configuration_of_each_part(config):
    TASK.check(config)
    with config.unlocked():
        config.parts.ground.loss = ConfigDict({"name": "dice", "dice_weight": 1.0})
    with pytest.raises(UserError, match="config.parts.ground.loss.dice_weight: the loss is Dice's already"):
        TASK.check(config)


def test_what_is_fused_is_judged_and_shown_beside_the_parts(config, mesh_of, variables):
    ground, objects = TASK.parts
    categories = Categories(CLASSES["objects"], CLASSES["ground"])
    task = replace(TASK, fusion=Fusion(objects, ground, score=0.1, stuff_area=9, categories=categories))
    source = load(config.data, "val")
    batches = predicted(task, Network(), variables, config, mesh_of(2), source)
    assert set(np.unique(batches[0].rows["panoptic/segments"]).tolist()) > {0}
    metrics = loop.gather(task, source, batches)
    summary, alone = loop.summarise(task, metrics), loop.summarise(TASK, loop.gather(TASK, source, batches))
    assert {name: value for name, value in summary.items() if not name.startswith("panoptic/")} == alone
    assert 0 <= summary["panoptic/pq"] <= 1 and summary["panoptic/examples"] == len(source)
    assert "panoptic/pq" in task.headline and "panoptic/pq" in task.higher_is_better
    assert "panoptic/pq" in task.table(summary) and task.masks == (*TASK.masks, "panoptic")
    described = task.describe(batches[0].rows, 0, CLASSES)
    assert list(described) == ["ground", "objects", "panoptic"] and described["panoptic"]["segments"]
    ids = {each["id"] for each in described["panoptic"]["segments"]}
    assert ids == set(np.unique(task.mask(batches[0].rows, 0, "panoptic")).tolist()) - {0}
    assert {line[0] for line in task.lines(described, 0.0, 9)} >= {"ground", "panoptic"}
    (file,) = (file for file in task.files(metrics, source) if file.name == "panoptic_segments")
    assert len(file.value["annotations"]) == len(list(file.images)) == len(source)


def test_a_rule_of_class_weights_becomes_numbers_of_its_part():
    config = get_base("multitask", {"objects": "detection", "ground": "segmentation"})
    config.data.source = "scenes:8x32"
    config.parts.ground.loss.class_weights = "median_frequency"
    resolved = tasks.of(config).resolve(config, load(config.data, "train"))
    assert len(resolved.parts.ground.loss.class_weights) == len(CLASSES["ground"])


def test_an_example_with_boxes_but_without_masks_counts_for_objects_with_masks():
    """Its masks are unknown, and the task leaves these out alone."""
    has = {"valid": [True, True, True, False], "has_boxes": [True, True, False, True]}
    has["has_masks"] = [True, False, False, False]
    batch = {name: jnp.array(rows) for name, rows in has.items()}
    assert Part("objects", tasks.get("instances")).labelled(batch).tolist() == [True, True, False, False]
