"""Beginning with trained weights, and evaluating with them, in the small network of the fixture `config`."""

import json
import re
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.evaluation.run import open_run, open_weights
from morphism.experiments import coco_deeplabv3, coco_faster_rcnn, coco_retinanet, quickstart
from morphism.experiments.base import get_base
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.manifest import read_classes
from morphism.runtime.mesh import AXIS
from morphism.training.begin import start_from
from morphism.training.loop import train
from morphism.training.optimizer import make_optimizer
from morphism.training.schedule import make_schedule
from morphism.training.state import init_state, restarted
from morphism.weights import files, public
from morphism.weights.convert import to_torch
from morphism.weights.opening import (
    Weights,
    classes_of,
    facts,
    read_run,
    read_weights,
    shapes_of,
    variables_like,
    with_options,
)
from morphism.weights.public import Public, PublicDetector, PublicSegmenter


def silent(line):
    pass


def drawn(shapes, seed):
    """Values for every array, of a size that a network may have."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.uniform(0.1, 0.2, x.shape).astype(x.dtype), shapes)


@pytest.fixture
def make_state(config):
    """make_state(classes=, seed=): a state of config's model, and its optimiser."""

    def make(classes=10, seed=0):
        model = models.create(config.model, classes, AXIS)
        optimizer = make_optimizer(config.optimizer, make_schedule(config, 100))
        return drawn(
            jax.eval_shape(lambda: init_state(model, optimizer, image_size=8, seed=seed, ema=True)), seed
        ), optimizer

    return make


@pytest.fixture
def file(make_state, tmp_path):
    """Weights drawn with another seed than config's, for ten classes."""
    path = tmp_path / "drawn.safetensors"
    files.write(path, tensors(make_state(seed=7)[0]))
    return path


def tensors(state):
    return to_torch({"params": state.params, "batch_stats": state.batch_stats})


def assert_same(found, expected, names):
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_state_begins_with_the_weights_and_its_averages_and_optimiser_with_it(config, make_state, file):
    (state, optimizer), expected = make_state(), files.read(file)
    started, notes = start_from(read_weights(str(file), silent), state, config, partial(restarted, optimizer=optimizer))
    assert_same(tensors(started), expected, expected)
    assert_same(to_torch(started.ema), expected, expected)
    fresh = optimizer.init(started.params)
    counters = [name for name in expected if name.endswith("num_batches_tracked")]
    assert jax.tree.structure(started.opt_state) == jax.tree.structure(fresh)
    jax.tree.map(np.testing.assert_array_equal, started.opt_state, fresh)
    assert notes == [f"starts from {len(expected) - len(counters)} arrays of {file}"]


def test_a_head_of_other_classes_starts_untrained_and_the_rest_does_not(config, make_state, file):
    (state, optimizer), expected = make_state(classes=7), files.read(file)
    started, notes = start_from(read_weights(str(file), silent), state, config, partial(restarted, optimizer=optimizer))
    found, fresh = tensors(started), tensors(state)
    assert_same(found, fresh, ["fc.weight", "fc.bias"])
    assert_same(found, expected, set(expected) - {"fc.weight", "fc.bias"})
    assert notes[1].endswith("so the head starts untrained: fc.bias, fc.weight")


def test_renamed_and_missing_arrays_follow_the_config(config, make_state, file, tmp_path):
    expected = files.read(file)
    path = tmp_path / "renamed.safetensors"
    files.write(path, {f"backbone.{name}": x for name, x in expected.items() if not name.startswith("fc.")})
    weights, (state, optimizer) = read_weights(str(path), silent), make_state()
    with pytest.raises(
        UserError, match=r"renamed.safetensors: does not fit: it lacks bn1.bias, .* and \d+ more; the mo"
    ):
        start_from(weights, state, config, partial(restarted, optimizer=optimizer))
    config.init_rename = (r"^backbone\. -> ",)
    config.init_allow_missing = (r"fc\..*",)
    started, notes = start_from(weights, state, config, partial(restarted, optimizer=optimizer))
    assert_same(tensors(started), expected, set(expected) - {"fc.weight", "fc.bias"})
    assert notes[1] == f"{path}: without fc.bias, fc.weight, which start untrained"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps that began with a file, and its file."""
    folder, config = tmp_path_factory.mktemp("trained"), quickstart.get_config()
    config.update(batch_size=16, duration="2", eval_every="0", checkpoint_every="1")
    config.data.update(image_size=8, resize_size=8)
    config.schedule.warmup = "0"
    shapes = variables_like(models.create(config.model, 10, AXIS), config)
    config.init_from = str(folder / "drawn.safetensors")
    files.write(folder / "drawn.safetensors", to_torch(drawn(shapes, 7)))
    train(config, folder / "run")
    return folder / "run", folder / "drawn.safetensors", config


def test_weights_that_do_not_fit_leave_no_workdir_behind(config, file, tmp_path):
    renamed = {name.replace("fc.", "head."): tensor for name, tensor in files.read(file).items()}
    files.write(tmp_path / "renamed.safetensors", renamed)
    config.init_from = str(tmp_path / "renamed.safetensors")
    with pytest.raises(
        UserError, match="does not fit: it lacks fc.bias, fc.weight; the model has no head.bias, head.w"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_runs_manifest_says_what_it_began_with(trained):
    workdir, file, _ = trained
    start = json.loads((workdir / "manifest.json").read_text())[0]
    assert start["init_from"] == str(file) and start["init_sha256"] == files.sha256(file)


@pytest.fixture
def exported(trained, tmp_path):
    weights = read_run(trained[0], "best")
    files.write(tmp_path / "out.safetensors", weights.tensors, facts(weights))
    return tmp_path / "out.safetensors"


def test_exported_weights_and_the_workdir_evaluate_as_the_run_whatever_the_experiment_says(trained, exported):
    workdir = trained[0]
    run = open_run(workdir, "best")
    other = quickstart.get_config()
    other.data.update(image_size=16, resize_size=20)
    other.augment.update(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    for reference in (exported, workdir):
        opened = open_weights(other, str(reference), {"data.resize_size", "augment.std"}, silent)
        assert (opened.config.data.image_size, opened.config.data.resize_size) == (8, 20)
        assert opened.config.augment.std == (1.0, 2.0, 3.0)
        opened = open_weights(other, str(reference), set(), silent)
        assert (opened.config.data.image_size, opened.config.data.resize_size) == (8, 8)
        for field in ("mean", "std"):
            assert opened.config.augment[field] == tuple(run.config.augment[field])
        assert tuple(opened.classes) == tuple(run.classes)
        assert jax.tree.structure(opened.variables) == jax.tree.structure(run.variables)
        jax.tree.map(np.testing.assert_array_equal, opened.variables, run.variables)


def test_an_exports_classes_need_no_data(trained, exported):
    config = trained[2].copy_and_resolve_references()
    config.data.source = "folder:/nowhere"
    assert tuple(open_weights(config, str(exported), set(), silent).classes) == read_classes(trained[0])


def test_an_exports_model_is_built_with_its_own_options():
    trained = {"task": "detection", "model.name": "fasterrcnn_resnet50_fpn", "model.options": {"bn_epsilon": 0.5}}
    config = coco_faster_rcnn.get_config()
    found = with_options(config, Weights("x.safetensors", "", {}, trained=trained))
    assert found.model.options.to_dict() == {"bn_epsilon": 0.5}
    with config.model.options.unlocked():
        config.model.options.bn_epsilon = 0.25
    found = with_options(config, Weights("x.safetensors", "", {}, trained=trained), {"model.options.bn_epsilon"})
    assert found.model.options.bn_epsilon == 0.25
    for field, value in (("task", "classification"), ("model.name", "resnet18")):
        with pytest.raises(UserError, match=f"x.safetensors is for config.{field}={value}, not "):
            with_options(config, Weights("x.safetensors", "", {}, trained=trained | {field: value}))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"data.colour": 1}, "its header says data.colour, which is not known here"),
        ({"classes": "a"}, "the classes in its header are no list of texts"),
        ({"classes": ["a"] * 10}, "the classes in its header are not 10 different ones"),
        ({"model.options": [1]}, "model.options in its header are no fields"),
        ({"data.image_size": "large"}, "what its header says of config is broken"),
        ({"augment.mean": [1, 2]}, "config.augment.mean is .*; it must be"),
        ({"classes": ["a", "b"]}, "is made for 10 classes, but names 2"),
    ],
)
def test_a_header_that_cannot_be_is_one_line(trained, exported, header, message):
    files.write(exported, files.read(exported), header)
    with pytest.raises(UserError, match=message) as caught:
        open_weights(trained[2], str(exported), set(), silent)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["conv1.weight", "layer1.0.bn1.running_var"])
def test_weights_that_are_not_finite_are_refused_wherever_they_come_in(config, file, tmp_path, name):
    bad = {each: x.copy() for each, x in files.read(file).items()}
    bad[name].flat[1] = np.nan
    files.write(file, bad)
    message = f"{re.escape(str(file))}: {re.escape(name)} is not finite in 1 of {bad[name].size}"
    with pytest.raises(UserError, match=message):
        open_weights(config, str(file), set(), silent)
    config.init_from = str(file)
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_runs_checkpoint_that_is_not_finite_is_refused(trained, monkeypatch):
    workdir, read = trained[0], Checkpoints.read

    def broken(self, step):
        state = read(self, step)
        state["batch_stats"]["bn1"]["var"] = state["batch_stats"]["bn1"]["var"] * np.nan
        return state | {"ema": None}

    monkeypatch.setattr(Checkpoints, "read", broken)
    for opened in (open_run, read_run):
        with pytest.raises(UserError, match=f"{workdir}, step 2: bn1.running_var is not finite"):
            opened(workdir, "best")


def test_a_prefix_of_most_names_is_removed(config, make_state, file, tmp_path):
    """As in Lightning's state dicts, which also hold the loss's tensors."""
    expected, (state, optimizer) = files.read(file), make_state()
    path = tmp_path / "lightning.safetensors"
    files.write(path, {f"model.{name}": x for name, x in expected.items()} | {"criterion.weight": np.zeros(2)})
    config.init_allow_unexpected = (r"criterion\..*",)
    started, notes = start_from(read_weights(str(path), silent), state, config, partial(restarted, optimizer=optimizer))
    assert_same(tensors(started), expected, expected)
    assert f"{path}: model., which some names begin with, is removed" in notes


def test_a_state_begins_with_a_run(trained, make_state, config):
    (state, optimizer), weights = make_state(), read_weights(str(trained[0]), silent)
    started, _ = start_from(weights, state, config, partial(restarted, optimizer=optimizer))
    assert_same(tensors(started), weights.tensors, weights.tensors)
    assert weights.origin == f"{trained[0]}, step 2" and len(weights.classes) == 10


def test_a_resumed_run_needs_its_beginning_no_more_and_ends_with_the_same_bits(trained):
    workdir, file, config = trained
    whole = read_run(workdir, "latest")
    shutil.rmtree(workdir / "checkpoints" / "2")
    file.unlink()
    train(config, workdir)
    starts = json.loads((workdir / "manifest.json").read_text())
    assert ["init_from" in start for start in starts] == [True, False]
    assert read_run(workdir, "latest").sha256 == whole.sha256


def test_weights_of_another_number_of_classes_are_refused_in_evaluation(config, make_state, tmp_path):
    files.write(tmp_path / "seven.safetensors", tensors(make_state(classes=7)[0]))
    assert classes_of(read_weights(str(tmp_path / "seven.safetensors"), silent), config) == 7
    with pytest.raises(UserError, match=r"seven.safetensors is made for 7 classes, embedded has 10"):
        open_weights(config, str(tmp_path / "seven.safetensors"), set(), silent)


@pytest.fixture
def of_torchvision(monkeypatch):
    """A public checkpoint of resnet18, without its network."""

    def fetch(reference, say):
        return reference

    shapes = shapes_of(resnet18())(10)
    monkeypatch.setattr(public, "fetch", fetch)
    monkeypatch.setattr(files, "sha256", lambda path: "0" * 64)
    monkeypatch.setattr(
        files, "read", lambda path: {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    )
    checkpoint = Public("x-00000000.pth", 44, 70.0, 90.0, crop_size=40, mean=(0.1, 0.2, 0.3))
    monkeypatch.setitem(public.CHECKPOINTS, "resnet18/TINY", checkpoint)
    monkeypatch.setitem(public.CHECKPOINTS, "resnet18/FEATURES", checkpoint._replace(top1=None, untrained="fc."))


def resnet18():
    config = get_base()
    config.model.name = "resnet18"
    config.data.image_size = 32
    return config


def test_a_public_checkpoint_is_evaluated_with_its_own_preparation(of_torchvision):
    run = open_weights(resnet18(), "torchvision:resnet18/TINY", {"data.source", "augment.std"}, silent)
    assert (run.config.data.resize_size, run.config.data.eval_size) == (44, 40)
    assert run.config.augment.mean == (0.1, 0.2, 0.3) and run.config.augment.std == resnet18().augment.std
    chosen = resnet18()
    chosen.data.resize_size = 50
    run = open_weights(chosen, "torchvision:resnet18/TINY", {"data.resize_size"}, silent)
    assert (run.config.data.resize_size, run.config.data.eval_size) == (50, 40)


def test_a_public_checkpoint_in_another_architecture_is_refused(of_torchvision):
    config = resnet18()
    config.model.name = "resnet34"
    with pytest.raises(UserError, match="TINY is for config.model.name=resnet18, not resnet34"):
        open_weights(config, "torchvision:resnet18/TINY", set(), silent)


def test_an_untrained_head_is_left_out_and_not_evaluated(of_torchvision):
    found = read_weights("torchvision:resnet18/FEATURES", silent).tensors
    assert "conv1.weight" in found and not any(name.startswith("fc.") for name in found)
    with pytest.raises(UserError, match="FEATURES has no trained classifier"):
        open_weights(resnet18(), "torchvision:resnet18/FEATURES", set(), silent)


def test_rules_that_are_no_texts_are_refused(config):
    from morphism.runtime.validation import check_config

    config.init_rename = (("a", "b"),)
    with pytest.raises(UserError, match="config.init_rename is .* it must be a tuple of texts"):
        check_config(ConfigDict(config))


def test_a_public_detector_is_evaluated_with_its_own_normalisation_and_options(monkeypatch, tmp_path):
    config = coco_retinanet.get_config()
    config.data.update(source="scenes:8x64", image_size=64, canvases=(), max_boxes=8)
    config.model.options.update(backbone="resnet18", channels=16)
    shapes = shapes_of(config)(5)
    old = {name.replace(".conv.1.0.", ".conv.2."): shape for name, shape in shapes.items()}
    assert old.keys() != shapes.keys()
    monkeypatch.setattr(public, "fetch", lambda reference, say: reference)
    monkeypatch.setattr(files, "sha256", lambda path: "0" * 64)
    monkeypatch.setattr(files, "read", lambda path: {name: np.zeros(shape, np.float32) for name, shape in old.items()})
    tiny = PublicDetector("x-00000000.pth", 30.0, mean=(0.1, 0.2, 0.3), options=(("bn_epsilon", 0.0),))
    monkeypatch.setitem(public.DETECTORS, "retinanet_resnet50_fpn/TINY", tiny)
    with config.unlocked():
        config.init_rename = ()
    run = open_weights(config, "torchvision:retinanet_resnet50_fpn/TINY", set(), silent)
    assert run.config.augment.mean == (0.1, 0.2, 0.3)
    assert run.model.bn_epsilon == 0.0
    assert len(run.classes) == 5


def test_a_models_options_are_those_a_public_checkpoint_was_trained_with():
    """Both of torchvision's Faster R-CNNs, to whoever opens them: eval.py, predict.py and weights.run alike."""
    for variant, epsilon in (("v1", 0.0), ("v2", 1e-5)):
        config = coco_faster_rcnn.get_config(variant)
        origin = f"torchvision:{config.model.name}/COCO_V1"
        found = with_options(config, Weights(origin, "", {}, public=public.find(origin)))
        assert models.create(found.model, 90, AXIS).bn_epsilon == epsilon
        assert "bn_epsilon" not in config.model.options
    with pytest.raises(UserError, match="is for config.model.name=retinanet_resnet50_fpn, not fasterrcnn_resnet50_fpn"):
        origin = "torchvision:retinanet_resnet50_fpn/COCO_V1"
        with_options(coco_faster_rcnn.get_config(), Weights(origin, "", {}, public=public.find(origin)))
    run = Weights("runs/first", "", {})
    assert with_options(coco_faster_rcnn.get_config(), run) == coco_faster_rcnn.get_config()


def test_a_public_segmenter_is_evaluated_as_it_is_prepared_whatever_the_experiment_renames(monkeypatch):
    config = coco_deeplabv3.get_config("resnet50")
    assert config.init_rename
    config.data.update(source="scene_masks:8x32", image_size=32, antialias=False)
    shapes = shapes_of(config)(6)
    monkeypatch.setattr(public, "fetch", lambda reference, say: reference)
    monkeypatch.setattr(files, "sha256", lambda path: "0" * 64)
    monkeypatch.setattr(
        files, "read", lambda path: {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    )
    tiny = PublicSegmenter("x-00000000.pth", 60.0, 90.0, resize_size=40, mean=(0.1, 0.2, 0.3))
    monkeypatch.setitem(public.SEGMENTERS, "deeplabv3_resnet50/TINY", tiny)
    run = open_weights(config, "torchvision:deeplabv3_resnet50/TINY", set(), silent)
    assert run.config.augment.mean == (0.1, 0.2, 0.3) and len(run.classes) == 6
    data = run.config.data
    assert (data.image_size, data.resize, data.antialias) == (40, "shorter", True)
