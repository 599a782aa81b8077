import jax
import numpy as np
import pytest

import models
import tasks
from data.oddities import Oddities
from data.sources import load
from evaluation.loop import evaluate, predict
from training.mesh import AXIS, replicated
from training.step import make_eval_step


class First:
    """The first `count` records of a source."""

    def __init__(self, source, count):
        self._source, self._count, self.classes = source, count, source.classes

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        return self._source[index]


@pytest.fixture
def model_and_variables(config):
    model = models.create(config.model, 10, AXIS)
    return model, jax.jit(lambda: models.init(model, jax.random.key(3), 8))()


def run(config, mesh, model, variables, count):
    source = First(load(config.data, "val"), count)
    task = tasks.get("classification")
    step = make_eval_step(model, task, config, mesh)
    batches = list(
        predict(step, jax.device_put(variables, replicated(mesh)), source, config, mesh, Oddities(source, print))
    )
    return evaluate(task, source.classes, batches), np.concatenate([batch["id"] for batch in batches])


def test_1003_examples_count_once_each_and_give_the_same_metrics_on_any_number_of_devices(
    config, mesh_of, model_and_variables
):
    results = {}
    for devices in (1, 2, 3, 4):
        results[devices], ids = run(config, mesh_of(devices), *model_and_variables, 1003)
        assert ids.tolist() == list(range(1003))
        assert results[devices]["examples"] == 1003
    for devices in (2, 3, 4):
        for key in ("top1", "top5", "confusion"):
            assert results[devices][key] == results[1][key]
        assert results[devices]["loss"] == pytest.approx(results[1]["loss"], rel=1e-6)


def test_predictions_equal_those_of_one_picture_at_a_time(config, mesh_of, model_and_variables):
    from augment import normalise
    from data.pipeline import evaluated

    found, _ = run(config, mesh_of(4), *model_and_variables, 37)
    model, variables = model_and_variables
    source = load(config.data, "val")
    apply = jax.jit(lambda image: model.apply(variables, image, train=False))
    correct = 0
    for index in range(37):
        image = normalise(evaluated(source[index], config.data)[0][None], config.augment.mean, config.augment.std)
        correct += int(np.argmax(apply(image)) == source[index]["label"])
    assert found["top1"] == correct / 37
