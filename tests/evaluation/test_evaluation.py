import inspect

import jax
import numpy as np
import pytest

from morphism import models, tasks
from morphism.data.oddities import Oddities
from morphism.data.sources import load
from morphism.errors import UserError
from morphism.evaluation.loop import evaluate, predict
from morphism.evaluation.run import Run
from morphism.evaluation.step import make_eval_step
from morphism.experiments import quickstart
from morphism.runtime.mesh import AXIS, replicated


class First:
    """The first `count` records of a source."""

    def __init__(self, source, count):
        self._source, self._count = source, count
        self.classes, self.targets = source.classes, source.targets

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        return self._source[index]


@pytest.fixture(scope="module")
def model_and_variables():
    model = models.create(quickstart.get_config().model, 10, AXIS)
    return model, jax.jit(lambda: models.init(model, jax.random.key(3), 8))()


def run(config, mesh, model, variables, count):
    source = First(load(config.data, "val"), count)
    task = tasks.get("classification")
    step = make_eval_step(model, task, config, mesh)
    batches = list(
        predict(step, jax.device_put(variables, replicated(mesh)), source, config, mesh, Oddities(source, print))
    )
    return evaluate(task, source, batches), np.concatenate([batch.rows["id"] for batch in batches])


def test_203_examples_count_once_each_and_give_the_same_metrics_on_any_number_of_devices(
    config, mesh_of, model_and_variables
):
    results = {}
    for devices in (1, 2, 3, 4):
        results[devices], ids = run(config, mesh_of(devices), *model_and_variables, 203)
        assert ids.tolist() == list(range(203))
        assert results[devices]["examples"] == 203
    for devices in (2, 3, 4):
        for key in ("top1", "top5", "confusion"):
            assert results[devices][key] == results[1][key]
        assert results[devices]["loss"] == pytest.approx(results[1]["loss"], rel=1e-6)


def test_predictions_equal_those_of_one_image_at_a_time(config, mesh_of, model_and_variables):
    from morphism.augment import normalise
    from morphism.data.examples import evaluated

    found, _ = run(config, mesh_of(4), *model_and_variables, 37)
    model, variables = model_and_variables
    source = load(config.data, "val")
    apply = jax.jit(lambda image: model.apply(variables, image, train=False))
    correct = 0
    for index in range(37):
        image = normalise(evaluated(source[index], config.data)[None], config.augment.mean, config.augment.std)
        correct += int(np.argmax(apply(image)) == source[index]["label"])
    assert found["top1"] == correct / 37


@pytest.mark.parametrize(("views", "devices"), [("flip", 4), ("ten_crop", 1), ("ten_crop", 4)])
def test_views_average_the_probabilities_of_one_view_at_a_time(config, mesh_of, model_and_variables, views, devices):
    from morphism.augment import normalise
    from morphism.data.examples import evaluated

    config.data.resize_size = 13
    model, variables = model_and_variables
    task = tasks.get("classification")
    source = First(load(config.data, "val"), 21)
    step = make_eval_step(model, task, config, mesh_of(devices), views)
    loaded = task.prepared(config, views)
    variables = jax.device_put(variables, replicated(mesh_of(devices)))
    batches = list(predict(step, variables, source, loaded, mesh_of(devices), Oddities(source, print)))
    found = {name: np.concatenate([batch.rows[name] for batch in batches]) for name in batches[0].rows}

    images = np.stack([evaluated(source[index], loaded.data) for index in range(21)])
    images = np.asarray(normalise(images, config.augment.mean, config.augment.std))
    apply = jax.jit(lambda images: jax.nn.softmax(model.apply(model_and_variables[1], images, train=False)))
    ends = {"flip": [slice(0, 8)], "ten_crop": [slice(0, 8), slice(5, 13)]}[views]
    windows = [(y, x) for y in ends for x in ends] + ([(slice(2, 10), slice(2, 10))] if views == "ten_crop" else [])
    each = [apply(side[:, y, x]) for side in (images, images[:, :, ::-1]) for y, x in windows]
    expected = np.mean(each, axis=0)
    assert len(each) == {"flip": 2, "ten_crop": 10}[views]
    np.testing.assert_array_equal(found["class"], expected.argmax(-1))
    np.testing.assert_allclose(found["confidence"], expected.max(-1), rtol=1e-5)
    np.testing.assert_allclose(found["loss"], -np.log(expected[np.arange(21), found["label"]]), rtol=1e-4)


def test_a_second_call_of_predict_traces_nothing(config, monkeypatch, model_and_variables):
    task, traces = tasks.get("classification"), []
    predict = task.predict
    monkeypatch.setattr(type(task), "predict", lambda self, *arguments: traces.append(1) or predict(*arguments))
    opened = Run(config, task, (), "a run", {}, *model_and_variables)
    source = First(load(config.data, "val"), 21)
    config.eval_batch_size = 8

    def predicted():
        batches = [batch.rows for batch in opened.predictions(source, print)]
        return [len(batch["id"]) for batch in batches], np.concatenate([batch["confidence"] for batch in batches])

    sizes, first = predicted()
    assert sizes == [8, 8, 5] and len(traces) == 1
    np.testing.assert_array_equal(predicted()[1], first)
    assert len(traces) == 1
    config.augment.mean = (9.0, 9.0, 9.0)
    assert np.any(predicted()[1] != first)  # a program of before does not serve another config


def test_ten_crops_of_what_is_no_larger_than_the_input_are_an_error(config):
    with pytest.raises(UserError, match="--views ten_crop: .*config.data.resize_size=8"):
        tasks.get("classification").prepared(config, "ten_crop")


def test_an_opened_run_is_short_to_print_and_tells_what_is_no_image(config, model_and_variables, tmp_path):
    model, variables = model_and_variables
    run = Run(config, tasks.of(config), ("a", "b"), "step 1 of runs/x", {}, model, variables)
    assert repr(run) == f"<Run: {config.model.name}, classification, 2 classes, step 1 of runs/x>"
    for wrong, message in ((5, "an image is 5; give"), (None, "an image is None; give"), (tmp_path, "is a folder")):
        for given in (wrong, [wrong]):
            with pytest.raises(UserError, match=message):
                list(inspect.unwrap(Run.results)(run, given))  # without the checks of annotations in these tests
