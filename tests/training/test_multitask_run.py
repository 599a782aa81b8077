"""Whole runs of several tasks on one network: trained, resumed, evaluated, exported and used for prediction."""

import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from morphism import models, tasks
from morphism.data import sources
from morphism.data.pipeline import train_batches
from morphism.data.sources import scene_masks, scenes
from morphism.errors import UserError
from morphism.evaluation.loop import evaluate
from morphism.evaluation.run import open_run, open_weights
from morphism.evaluation.sheets import examples
from morphism.experiments.base import get_base
from morphism.models.base import Model
from morphism.models.detection import Detector, mean_over_images
from morphism.ops.losses import cross_entropy
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.digest import digest
from morphism.training import loop
from morphism.training.loop import train
from morphism.training.meter import TIMED
from morphism.weights import files
from morphism.weights.opening import facts, read_run

SIDE, SLOTS = 32, 6
CLASSES = {"ground": scene_masks.CLASSES, "objects": scenes.CLASSES}


class Boxes(Detector):
    """Reads a box, and the logits of its class, per slot."""

    def loss(self, outputs, targets):
        used = targets["classes"] >= 0
        distance = jnp.abs(outputs["boxes"] - targets["boxes"]).mean(-1) / SIDE
        each = jax.vmap(cross_entropy)(outputs["class_logits"], jnp.maximum(targets["classes"], 0))
        return mean_over_images(
            {"box": jnp.sum(used * distance, -1), "class": jnp.sum(used * each, -1)}, targets["valid"]
        )

    def detect(self, outputs, sizes):
        p = jax.nn.softmax(outputs["class_logits"])
        boxes = jnp.sort(outputs["boxes"].reshape(-1, SLOTS, 2, 2), axis=2).reshape(-1, SLOTS, 4)
        return {"boxes": boxes, "scores": p.max(-1), "classes": p.argmax(-1), "valid": jnp.ones(p.shape[:2], bool)}


class Tiny(Model):
    """A detector of few slots and a segmenter on one convolution."""

    num_classes: Any = 2
    heads: Any = None

    @nn.compact
    def __call__(self, images, *, train):
        count = {
            part: self.num_classes if isinstance(self.num_classes, int) else self.num_classes[part] for part in CLASSES
        }
        x = nn.relu(nn.Conv(4, (5, 5), 4, name="stem")(images))
        found = nn.Dense(SLOTS * (4 + count["objects"]), name="boxes")(jnp.mean(x, (1, 2))).reshape(len(x), SLOTS, -1)
        logits = nn.Conv(count["ground"], (1, 1), name="classes")(x)
        return {
            "ground": {"out": logits.repeat(4, axis=1).repeat(4, axis=2)},
            "objects": {"boxes": SIDE * nn.sigmoid(found[..., :4]), "class_logits": found[..., 4:]},
        }

    @nn.nowrap
    def reader(self, part):
        return Boxes() if part == "objects" else self


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(models.models(), "tiny", Tiny)
    config = get_base("multitask", {"objects": "detection", "ground": "segmentation"})
    config.model.name = "tiny"
    config.data.update(source=f"scenes:24x{SIDE}", image_size=SIDE, resize="fit", max_boxes=SLOTS)
    config.update(batch_size=4, duration="6", log_every="2", eval_every="3", checkpoint_every="2")
    config.optimizer.learning_rate = 0.01
    return config


class Crash(Exception):
    pass


class Partial:
    """Scenes of which every second record has boxes alone, the others a mask alone."""

    def __init__(self, source):
        self.source = source

    def __getattr__(self, name):
        return getattr(self.source, name)

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        record = dict(self.source[index])
        del record["segmentation" if index % 2 else "annotations"]
        return record


def digest_of(workdir):
    with Checkpoints(workdir, best="objects/ap") as checkpoints:
        return digest(checkpoints.read(6))


def lines_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def test_a_resumed_run_with_partial_labels_ends_with_the_same_bits(config, tmp_path, monkeypatch, capsys):
    load = sources.load
    monkeypatch.setattr(sources, "load", lambda data, split: Partial(load(data, split)))
    undisturbed = train(config, tmp_path / "a")
    output = capsys.readouterr().out
    assert "classes: 5 of objects, 6 of ground" in output
    assert "val: objects (ap 0.0000  ap50 0.0000  ap75 0.0000)  ground (miou " in output
    pairs, taken = loop.training_pairs, []

    def interrupted(*args, **options):
        for batch in train_batches(*args, **options):
            taken.append(batch)
            if len(taken) == 6:
                raise Crash
            yield batch

    monkeypatch.setattr(loop, "training_pairs", lambda *args, **more: pairs(*args, **more | {"feed": interrupted}))
    with pytest.raises(Crash):
        train(config, tmp_path / "b")
    monkeypatch.setattr(loop, "training_pairs", pairs)
    assert train(config, tmp_path / "b") == undisturbed
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b")
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "b")
    has = np.stack([batch["has_boxes"] for batch in taken]), np.stack([batch["has_segmentation"] for batch in taken])
    assert (has[0] ^ has[1]).all() and has[0].any() and has[1].any()
    run = open_run(tmp_path / "a", "latest")
    assert run.classes == CLASSES
    val = sources.load(config.data, "val")
    found = evaluate(run.task, val, run.predictions(val, print))
    assert (found["examples"], found["objects/examples"], found["ground/examples"]) == (6, 3, 3)
    assert {name: run.task.table(found)[f"{name}/examples"] for name in CLASSES} == dict.fromkeys(CLASSES, 3)


def test_a_run_is_evaluated_exported_and_predicts_as_any_other(config, tmp_path):
    config.parts.objects.weight = 0.5
    config.fusion.update(things="objects", stuff="ground", score=0.1, stuff_area=9)
    assert "panoptic/pq" in train(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "classes.json").read_text()).keys() == CLASSES.keys()
    run = open_run(tmp_path / "run", "best")
    weights = read_run(tmp_path / "run", "best")
    files.write(tmp_path / "tiny.safetensors", weights.tensors, facts(weights))
    exported = open_weights(config, str(tmp_path / "tiny.safetensors"))
    assert exported.classes == run.classes == CLASSES and "classes: " in repr(exported)
    val = sources.load(config.data, "val")
    found = evaluate(run.task, val, run.predictions(val, print))
    assert found == evaluate(exported.task, val, exported.predictions(val, print))
    assert found["panoptic/examples"] == len(val) and 0 <= found["panoptic/pq"] <= 1
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8))
    (found,) = run.predict(image)
    assert found.keys() == {*CLASSES, "panoptic"}
    assert sum(each["area"] for each in found["panoptic"]["segments"]) <= 40 * 30
    assert len(found["objects"]["detections"]) == SLOTS
    assert {each["class"] for each in found["ground"]["classes"]} <= set(scene_masks.CLASSES)
    config.data.source = f"scene_masks:24x{SIDE}"
    with pytest.raises(UserError, match="has no boxes, which config.data.targets asks for"):
        train(config, tmp_path / "other")


def test_a_split_without_the_truths_of_a_part_reports_none(config, tmp_path):
    task, source = tasks.of(config), sources.load(config.data, "val")
    metrics = task.init_metrics(source)
    rows = {
        "id": np.arange(2),
        "objects/labelled": np.zeros(2, bool),
        "ground/labelled": np.array([True, False]),
        "ground/classes": np.zeros((2, 4, 4), np.uint8),
        "ground/true": np.ones((2, 4, 4), np.uint8),
        "ground/original_size": np.full((2, 2), 4),
        "ground/loss": np.zeros(2, np.float32),
        "ground/counted": np.full(2, 16, np.int32),
    }
    confusion = np.diag([0, 16] + [0] * (len(task.class_names(source)["ground"]) - 2))
    metrics = task.add_totals(task.update_metrics(metrics, rows), {"ground/confusion": confusion})
    summary = task.summarise(metrics)
    assert summary["objects/ap"] == -1 and summary["objects/examples"] == 0
    assert (summary["ground/examples"], summary["examples"], summary["ground/pixels"]) == (1, 2, 16)
    assert task.table(summary)["objects/examples"] == 0 and "objects/ap" not in task.table(summary)
    assert task.files(metrics, source) == ()


def test_a_mix_of_sources_with_different_truths_is_learned_and_judged_by_what_each_has(config, tmp_path):
    config.data.source = f"mix:1*scenes:12x{SIDE} + 1*scene_masks:12x{SIDE}"
    config.update(duration="2", eval_every="0")
    train(config, tmp_path)
    found = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert found.keys() >= {"val/objects/ap", "val/ground/miou"}
    run = open_run(tmp_path, "latest")
    val = sources.load(config.data, "val")
    found = evaluate(run.task, val, run.predictions(val, print))
    assert (found["examples"], found["objects/examples"], found["ground/examples"]) == (6, 3, 6)
    assert run.task.unjudged(val) == []
    sheet = examples(
        run.task, val, [batch.rows for batch in run.predictions(val, print)], run.classes, config.data, 0.5, 9
    )
    assert sheet.width > 6 * 256 and sheet.height > 3 * 256  # two records per row: truth, prediction, what differs


def test_a_run_is_judged_on_data_by_the_parts_whose_truths_that_has(config, tmp_path, capsys):
    (tmp_path / "mix.yaml").write_text(
        f'- source: scenes:12x{SIDE}\n  val_split: ""\n- source: scene_masks:12x{SIDE}\n'
    )
    config.data.source = f"mix:{tmp_path / 'mix.yaml'}"
    config.update(duration="1", eval_every="0")
    with pytest.raises(UserError, match="config.best is 'objects/ap', which mix:.* val has no truths for; set it to"):
        train(config, tmp_path / "run")
    config.best = "ground/miou"
    train(config, tmp_path / "run")
    output = capsys.readouterr().out
    assert "data: val has no truths for objects, not evaluated there" in output and "val: ground (miou" in output
    run = open_run(tmp_path / "run", "latest")
    config.data.source = "embedded"
    with pytest.raises(UserError, match="^embedded val is data for label, but the task learns objects from boxes, gro"):
        run.task.with_classes(sources.load(config.data, "val"), run.classes, "embedded val")
    config.data.source = f"scenes:12x{SIDE}"
    assert run.task.unjudged(sources.load(config.data, "val")) == []
