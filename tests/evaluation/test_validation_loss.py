"""The loss of an evaluation: the mean over its examples, whatever batches they are in."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism import models, tasks
from morphism.data import sources
from morphism.data.oddities import Oddities
from morphism.errors import UserError
from morphism.evaluation.loop import evaluate, predict
from morphism.evaluation.step import make_eval_step
from morphism.experiments.base import get_base
from morphism.labels import IGNORE
from morphism.models.base import Model
from morphism.models.detection import Detector, PostProcess, trainable
from morphism.models.mask_rcnn import MaskRCNN
from morphism.ops.anchors import AnchorGenerator
from morphism.ops.roi_align import multilevel_roi_align
from morphism.runtime.validation import check_config

SIDE, COUNT = 32, 5
ANCHORS = AnchorGenerator(sizes=((8, 16), (16, 24)))
STAGES = dict(head_width=8, proposals=8, candidates=16, box_samples=8, anchor_samples=8, mask_width=8)


class Tiny(nn.Module):
    """Maps at strides 8 and 16."""

    @nn.compact
    def __call__(self, images, *, train):
        maps = [nn.Conv(8, (8, 8), (8, 8), name="a")(images)]
        return [*maps, nn.Conv(8, (2, 2), (2, 2), name="b")(maps[0])]


def opened(config):
    source = sources.load(config.data, f"val[:{COUNT}]")
    return source, tasks.of(config)


def of_scenes(task):
    config = get_base(task)
    config.data.update(source=f"scenes:20x{SIDE}", image_size=SIDE, resize="fit", max_boxes=8, eval_loss=True)
    config.eval_batch_size = 4  # the last of five examples is in a batch with three rows of padding
    return config


def batches_of(config, model, variables, mesh_of):
    source, task = opened(config)
    step = make_eval_step(model, task, config, mesh_of(1))
    return list(predict(step, variables, source, config, mesh_of(1), Oddities(source, print)))


def loss_of(config, batches):
    source, task = opened(config)
    return evaluate(task, source, batches)["loss"]


def variables_of(model):
    return jax.jit(lambda: models.init(model, jax.random.key(0), SIDE))()


class Bright(Detector):
    """A detector whose loss depends on the image and its boxes, and is divided by the boxes of the whole batch."""

    reads = ()
    num_classes: int

    @nn.compact
    def __call__(self, images, *, train):
        return {
            "cls_logits": jnp.zeros((len(images), 1, self.num_classes)),
            "bright": images.mean((1, 2, 3)),
            "anchors": jnp.full(len(images), 2.0),  # shared by all images, whatever its length
        }

    @nn.nowrap
    def loss(self, outputs, targets):
        counted = trainable(targets)
        widths = jnp.where(counted, targets["boxes"][..., 2] - targets["boxes"][..., 0], 0).sum(axis=1)
        return {"a": jnp.sum(outputs["anchors"][0] * widths * outputs["bright"]) / counted.sum(), "b": jnp.ones(())}

    @nn.nowrap
    def detect(self, outputs, sizes):
        rows = len(sizes)
        empty = {"boxes": jnp.zeros((rows, 1, 4)), "scores": jnp.zeros((rows, 1)), "valid": jnp.zeros((rows, 1), bool)}
        return empty | {"classes": jnp.zeros((rows, 1), jnp.int32)}


def test_a_detectors_is_the_mean_over_images_each_as_if_alone(mesh_of):
    config = of_scenes("detection")
    source, _ = opened(config)
    alone = []
    for index in range(COUNT):
        boxes, bright = source.annotations(index).boxes, normalised(source[index]["image"], config).mean()
        alone.append(2 * bright * np.mean(boxes[:, 2] - boxes[:, 0]) + 1)
    found = loss_of(config, batches_of(config, Bright(num_classes=len(source.classes)), {}, mesh_of))
    assert found == pytest.approx(np.mean(alone), rel=1e-5)


def normalised(pixels, config):
    return np.float32((pixels / 255 - config.augment.mean) / np.array(config.augment.std))[None]


def test_a_mask_rcnns_is_that_of_its_own_samples_and_leaves_its_detections_as_they_are(mesh_of):
    config = of_scenes("instances")
    pool = partial(multilevel_roi_align, sampling_ratio=2)
    source, _ = opened(config)
    model = MaskRCNN(
        num_classes=len(source.classes),
        backbone=Tiny(),
        rpn_anchor_generator=ANCHORS,
        box_roi_pool=partial(pool, size=3),
        mask_roi_pool=partial(pool, size=3),
        post_process=PostProcess(score_threshold=0.05, nms_threshold=0.5, detections=6),
        **STAGES,
    )
    variables, found = variables_of(model), []
    for config.data.eval_loss in (False, True):
        found.append(batches_of(config, model, variables, mesh_of))
    for without, judged in zip(*found, strict=True):
        assert set(judged.rows) - set(without.rows) == {"loss"}
        for name in without.rows:
            np.testing.assert_allclose(judged.rows[name], without.rows[name], atol=1e-4)
    chance = -np.log(1 / (len(source.classes) + 1))  # of the second stage, untrained
    assert chance < loss_of(config, found[1]) < 10 * chance


def test_a_segmenters_is_the_mean_cross_entropy_of_the_pixels_that_count(mesh_of):
    config = get_base("segmentation")
    config.data.update(source="scene_masks:20x32", image_size=32, resize="none", crop=(32, 32))
    config.eval_batch_size = 4
    source, _ = opened(config)
    model = Pixels(len(source.classes))
    variables, total, count = variables_of(model), 0.0, 0
    for index in range(COUNT):
        record = source[index]
        logits = np.asarray(model.apply(variables, normalised(record["image"], config), train=False)["out"][0], float)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        rows, columns = np.nonzero(record["segmentation"] != IGNORE)
        total -= logits[rows, columns, record["segmentation"][rows, columns]].sum()
        count += len(rows)
    found = loss_of(config, batches_of(config, model, variables, mesh_of))
    assert found == pytest.approx(total / count, rel=1e-5)


class Pixels(Model):
    classes: int = 2

    @nn.compact
    def __call__(self, images, *, train):
        return {"out": nn.Dense(self.classes)(images)}


def test_the_best_by_a_loss_that_is_not_computed_is_an_error_with_a_remedy():
    config = get_base("detection")
    config.best = "loss"
    with pytest.raises(UserError, match=r"config.best is 'loss', .* only with config.data.eval_loss=True"):
        check_config(config)
    config.data.eval_loss = True
    check_config(config)
