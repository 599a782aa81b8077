"""morphism config: what it prints of experiments and of fields."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from morphism.commands.config import COMMAND, explained, main, table
from morphism.errors import UserError
from morphism.experiments import cifar10_resnet, quickstart
from morphism.experiments.base import FIELDS, get_base
from morphism.experiments.fields import flat


@pytest.mark.parametrize("config", [quickstart.get_config("segmentation"), cifar10_resnet.get_config()])
def test_a_line_per_field_in_the_order_of_declaration(config):
    options = [f"model.options.{name}" for name in config.model.options] or ["model.options"]
    names = [each for name in flat(FIELDS[config.task]) for each in (options if name == "model.options" else [name])]
    assert [line[2:].split(" = ")[0] for line in table(config).splitlines() if line] == names


def test_what_differs_from_the_defaults_is_marked_and_shows_them():
    lines = table(cifar10_resnet.get_config()).splitlines()
    assert lines[:4] == [
        "  task = 'classification'",
        "  seed = 0",
        "  precision = 'default'",
        "  deterministic = False",
    ]
    assert "* data.source = 'tfds:cifar10'  (default 'embedded')" in lines
    assert "* schedule.boundaries = ('32k', '48k')  (default ('30ep', '60ep', '80ep'))" in lines
    assert "  model.options = {}" in lines
    lines = table(quickstart.get_config("segmentation")).splitlines()
    assert "* eval_batch_size = 8  (default 1)" in lines  # the default of this task
    assert "* model.options.width = 24  (default: the architecture's)" in lines


def test_a_field_is_explained_for_each_task_that_has_another():
    shapes = "    Range: pairs of a height and a width, such as ((800, 1344), (1344, 800))"
    first, second = explained("data.canvases").split("\n\n")
    assert first.splitlines()[::2] == ["data.canvases = () (detection, instances, multitask)", shapes]
    assert second.splitlines()[::2] == ["data.canvases = () (segmentation)", shapes]
    assert explained("batch_size").splitlines() == [
        "batch_size = 128",
        "    Examples per step, over all devices and processes.",
        "    Range: a whole number of at least 1",
    ]
    assert explained("best").startswith(
        "best = 'top1' (classification), 'ap' (detection), 'mask_ap' (instances), 'miou' (segmentation), "
        "'' (multitask)\n"
    )


def test_a_field_of_an_experiment_is_explained_with_its_value():
    config = quickstart.get_config("detection")
    assert explained("data.max_boxes", config).startswith("* data.max_boxes = 8  (default 100)\n")
    assert explained("model.options.width") == explained("model.options")
    with pytest.raises(
        UserError, match="^--explain data.crop: a field of segmentation and multitask only; .* detection$"
    ):
        explained("data.crop", config)


def test_the_fields_of_parts_and_heads_are_printed_and_explained():
    config = get_base("multitask", {"objects": "detection", "ground": "segmentation"})
    with config.unlocked():
        config.model.heads.ground.options.channels = 64
    config.parts.ground.loss.name = "focal"
    lines = table(config).splitlines()
    for line in (
        "* model.heads.ground.options.channels = 64  (default: the head's)",
        "* model.heads.objects.name = 'retinanet'  (default '')",
        "* parts.ground.loss.name = 'focal'  (default 'cross_entropy')",
        "  parts.objects.weight = 1.0",
        "  parts.ground.targets = {}",
    ):
        assert lines.count(line) == 1, line
    assert explained("parts.ground.loss.name", config).startswith("* parts.ground.loss.name = 'focal'")
    assert "  parts.objects.weight = 1.0\n    Factor of the part's loss in the sum.\n" in explained("parts", config)
    assert explained("parts").startswith("parts = {} (multitask)\n")


def test_the_options_of_an_architecture_are_explained_with_its_defaults():
    config = quickstart.get_config("segmentation")
    assert "* model.options.width = 24  (default 64)" in explained("model.options", config).splitlines()
    assert explained("model.options.width", config).splitlines()[0] == "* model.options.width = 24  (default 64)"
    with pytest.raises(UserError, match="options.widht: unet has no such option; did you mean width"):
        explained("model.options.widht", config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=resnet19", "config.model.name is 'resnet19'"),
        ("model.options.zz=1", "config.model.options.zz: "),
        ("data.source=nope:x", "config.data.source is 'nope'"),
    ],
)
def test_what_training_refuses_of_a_model_or_source_is_refused(monkeypatch, override, message):
    argv = ["morphism config", "experiments/quickstart.py", f"--config.{override}"]
    monkeypatch.setattr("sys.argv", argv)
    COMMAND.parse(argv)
    with pytest.raises(UserError, match=f"^{message}"):
        main(argv[:1])


def test_a_group_is_explained_field_by_field():
    heads = [entry.partition(" = ")[0] for entry in explained("ema").split("\n\n")]
    assert heads == ["ema.decay", "ema.every", "ema.ramp"]
    for task, fields in FIELDS.items():
        for group in (name for name, each in fields.items() if isinstance(each, dict)):
            assert f"{group}." in explained(group), task


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("data.canvas", "data.canvases"),
        ("canvases", "data.canvases"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("optimiser", "optimizer"),
        ("epochs", "duration"),
    ],
)
def test_a_misspelt_field_is_told_with_the_one_that_was_meant(name, meant):
    with pytest.raises(UserError, match=rf"^--explain {name}: no such field; did you mean {meant}\?$"):
        explained(name)


def morphism(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "morphism", "config", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_prints_json_with_the_overrides_and_refuses_what_makes_no_sense():
    experiment = "experiments/quickstart.py"
    done = morphism(experiment, "--config.loss.class_weights=1,0.5", "--json")
    expected = quickstart.get_config().to_dict()
    expected["loss"]["class_weights"] = (1, 0.5)
    expected["plots"] = True  # only the tests' own process draws nothing
    assert json.loads(done.stdout) == json.loads(json.dumps(expected))
    done = morphism(experiment, "--config.optimizer.name=sdg")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("morphism config: error: config.optimizer.name is 'sdg', which is none of ")
    done = morphism("--explain", "config.seed")
    assert done.stdout.startswith("seed = 0\n")
