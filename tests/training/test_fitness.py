"""A model that does not fit is refused before anything is run or written."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from morphism import models, tasks
from morphism.data import sources
from morphism.errors import UserError
from morphism.evaluation.fitness import check_model
from morphism.experiments import quickstart
from morphism.experiments.base import get_base
from morphism.models.base import Model
from morphism.models.detection import Detector
from morphism.models.layers import BatchNorm
from morphism.runtime.mesh import AXIS
from morphism.training.fitness import check_norms
from morphism.training.hyper import hyper_parameters
from morphism.training.loop import train
from morphism.training.state import init_state
from morphism.training.step import make_train_step, optimizer_of


@pytest.mark.parametrize(
    ("images", "devices", "accumulate", "field", "side", "refused"),
    [
        (4, 4, 1, None, 4, True),
        (4, 2, 2, None, 4, True),
        (2, 1, 2, "sync_bn", 4, True),  # one image in each micro-batch of the only device
        (1, 1, 1, None, 4, True),
        (1, 1, 1, None, 8, False),  # a map of 2 x 2
        (8, 4, 1, None, 4, False),
        (4, 4, 1, "sync_bn", 4, False),
        (4, 4, 1, "frozen_bn", 4, False),
    ],
)
def test_batch_norm_over_one_value_is_refused(config, mesh_of, images, devices, accumulate, field, side, refused):
    """The last stage's map of an image of 4 x 4 is a single pixel."""
    config.update(batch_size=images, accumulate=accumulate)
    config.data.image_size = side
    if field:
        config.model[field] = True
    model = models.create(config.model, 10, AXIS)
    hyper, mesh = hyper_parameters(config, 100), mesh_of(devices)
    state = init_state(model, optimizer_of(config, hyper), image_size=side, seed=0, ema=False)
    step = make_train_step(model=model, task=tasks.get(config.task), config=config, classes=10, mesh=mesh)
    source = sources.load(config.data, "train")
    check = partial(check_norms, step, source=source, config=config, state=state, hyper=hyper, mesh=mesh)
    if not refused:
        return check()
    with pytest.raises(UserError, match=r"^batch norm layer3\.0\.bn1 has one value per channel") as caught:
        check()
    assert len(str(caught.value).splitlines()) == 1
    assert ("set config.model.sync_bn=True" in str(caught.value)) == (field != "sync_bn")


LARGER = {"data.image_size": 32, "data.resize_size": 32}


class Own(Model):
    """An architecture of somebody's own, whose number of outputs nobody sets."""

    outputs: int = 10
    form: str = "logits"
    norm: partial = partial(BatchNorm)

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(self.outputs)(images)
        return jnp.mean(x, (1, 2)) if self.form == "logits" else {self.form: x}


class OwnDetector(Own, Detector):
    num_classes: int = 10

    def loss(self, outputs, targets): ...

    def detect(self, outputs, sizes): ...


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ("classification", Own(), "it has 10 outputs, the data 3 classes"),
        ("classification", Own(form="out"), "its outputs are not logits"),
        ("segmentation", Own(form="out"), "'out' has 10 outputs, the data 3 classes"),
        ("segmentation", Own(), "its outputs are not maps of logits"),
        ("detection", Own(form="cls_logits"), "it is no detector"),
        ("detection", OwnDetector(form="cls_logits"), "its cls_logits are 10 per box, the data has 3 classes"),
        ("detection", OwnDetector(form="predictions"), "its predictions are 10 per box"),
        ("classification", Own(outputs=3), ""),
        ("segmentation", Own(outputs=3, form="out"), ""),
        ("detection", OwnDetector(outputs=4, form="class_logits"), ""),
    ],
)
def test_outputs_that_are_not_as_many_as_the_classes_are_refused(task, model, message):
    config = quickstart.get_config(task)
    config.data.image_size = 8
    variables = models.init(model, jax.random.key(0), 8)
    if not message:
        return check_model(model, tasks.get(task), config, 3, variables)
    with pytest.raises(UserError, match=f"^config.model.name=.*: {message}"):
        check_model(model, tasks.get(task), config, 3, variables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.name": "unet", **LARGER}, "config.model.name=unet: its outputs are not logits"),
        (
            {"model.name": "vgg11", "model.sync_bn": True, **LARGER},
            "config.model.sync_bn: vgg11 with these options has no batch norm; set it to False",
        ),
        (
            {"model.name": "unet", "model.options": {"width": 0, "stages": 2}},
            "config.model: unet cannot be built with",
        ),
        ({"model.name": "unet", "model.options": {"stages": 0}}, "config.model.options.stages is 0; a U-Net has one"),
        ({"batch_size": 4, "data.image_size": 4}, "batch norm layer3.0.bn1 has one value per channel"),
    ],
)
def test_what_does_not_fit_leaves_no_workdir(config, tmp_path, change, message):
    change = dict(change)
    with config.unlocked():
        config.model.options = ConfigDict(change.pop("model.options", {}))
        config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 3}, "config.model.width: no such field; an option of unet is config.model.options.width"),
        ({"sync": True}, "config.model.sync: no such field; did you mean sync_bn"),
        ({"remat": True}, "config.model.remat: unet has no use for it; set it to False"),
        ({"name": "own", "dtype": "bfloat16"}, "config.model.dtype: own has no use for it; set it to float32"),
        ({"sync_bn": True, "frozen_bn": True}, "config.model.sync_bn: frozen batch norms have no use for it"),
        ({"options": {"width": "wide"}}, "config.model.options.width is 'wide'; it must be a whole number, such as 64"),
        ({"options": {"width": True}}, "config.model.options.width is True; it must be a whole number"),
        ({"options": {"valid": 1}}, "config.model.options.valid is 1; it must be True or False"),
        ({"options": {"dropout": "x"}}, "config.model.options.dropout is 'x'; it must be a number"),
    ],
)
def test_what_an_architecture_has_no_use_for_is_refused(monkeypatch, changes, message):
    monkeypatch.setitem(models.models(), "own", Own)
    config = ConfigDict({**get_base().model, "name": "unet", **changes})
    with pytest.raises(UserError, match=f"^{message}"):
        models.create(config, 3, AXIS)


def test_a_whole_number_will_do_for_any_number():
    models.create(ConfigDict({**get_base().model, "name": "unet", "options": {"dropout": 0}}), 3, AXIS)
