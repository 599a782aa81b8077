"""What a person gives as --config: read in this process, with the command line that a command would have."""

import re
import shlex

import pytest
from absl import flags
from ml_collections import config_flags

from morphism import models
from morphism.commands import cli
from morphism.commands.experiment_file import ExperimentParser
from morphism.errors import UserError, did_you_mean, one_line
from morphism.runtime.mesh import AXIS

BASE = "from morphism.experiments.base import get_base\n"
QUICKSTART = "experiments/quickstart.py"


def parsed(monkeypatch, *arguments):
    """The config of `train.py --config ...`, through ml_collections' own flags."""
    argv = ["train.py", *arguments]
    monkeypatch.setattr("sys.argv", argv)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    values["config"].parser = ExperimentParser()
    values(argv)
    return values.config


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("anchor_size", "16", 16),
        ("score_threshold", "0.2", 0.2),
        ("stride_in_1x1", "True", True),
        ("stride_in_1x1", "true", True),
        ("backbone", "resnet101", "resnet101"),
        ("detections", "7", 7),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_an_option_that_the_experiment_does_not_list_can_be_set(monkeypatch, name, text, value, apart):
    given = (f"--config.model.options.{name}", text) if apart else (f"--config.model.options.{name}={text}",)
    if apart and isinstance(value, bool):
        given = (f"--config.model.options.{name}",)  # as absl writes a flag that is set
        text = ""
    config = parsed(monkeypatch, "--config", "experiments/coco_retinanet.py", *given)
    found = config.model.options[name]
    assert (found, type(found)) == (value, type(value))
    model = models.create(config.model, 3, AXIS)
    assert getattr(model if hasattr(model, name) else model.post_process, name) == value
    assert config.is_locked


def test_targets_of_a_part_can_be_named(monkeypatch):
    given = ("--config", "experiments/camvid_driving.py", "--config.parts.ground.targets.segmentation=lanes")
    assert parsed(monkeypatch, *given).parts.ground.targets.to_dict() == {"segmentation": "lanes"}


def test_a_tuple_can_be_set(monkeypatch):
    given = ("--config", "experiments/imagenet_alexnet.py", "--config.model.options.stem=(5, 2, 2)")
    assert tuple(parsed(monkeypatch, *given).model.options.stem) == (5, 2, 2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("balanced", "balanced"),
        ("(1, 0.5, 2)", (1, 0.5, 2)),
        ("1,0.5,2", (1, 0.5, 2)),
        ("[1.0, 0.5]", (1.0, 0.5)),
        ("()", ()),
        ("1", "1"),  # which the check refuses
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_class_weights_are_a_word_or_a_tuple(monkeypatch, text, value, apart):
    given = ("--config.loss.class_weights", text) if apart else (f"--config.loss.class_weights={text}",)
    found = parsed(monkeypatch, "--config", QUICKSTART, *given).loss.class_weights
    assert (found, type(found)) == (value, type(value))


def test_patterns_are_given_as_a_tuple_or_one_by_one(monkeypatch):
    name = "--config.init_allow_missing"
    for given in ([rf"{name}=(r'fc\..*', 'a|b')"], [rf"{name}=fc\..*", f"{name}=a|b"], [rf"{name}=fc\..*,a|b"]):
        config = parsed(monkeypatch, "--config", QUICKSTART, *given)
        assert config.init_allow_missing == (r"fc\..*", "a|b")


def test_words_with_commas_are_a_tuple_but_a_comma_of_a_pattern_is_not_split(monkeypatch):
    for given, value in (("10ep,20ep", ("10ep", "20ep")), ("10ep, 20ep", ("10ep", "20ep")), ("9k", ("9k",))):
        config = parsed(monkeypatch, "--config", QUICKSTART, f"--config.schedule.boundaries={given}")
        assert config.schedule.boundaries == value
    config = parsed(monkeypatch, "--config", QUICKSTART, "--config.optimizer.freeze=('a{1,2}', 'b')")
    assert config.optimizer.freeze == ("a{1,2}", "b")
    with pytest.raises(flags.Error):
        parsed(monkeypatch, "--config", QUICKSTART, "--config.optimizer.freeze=a{1,2}")


def test_the_task_of_an_experiment_stays(monkeypatch):
    parsed(monkeypatch, "--config", QUICKSTART, "--config.task=classification")
    with pytest.raises(UserError, match="^config.task cannot be changed; choose an experiment of that task"):
        parsed(monkeypatch, "--config", QUICKSTART, "--config.task=segmentation")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=64k", "config.batch_size is '64k'; it must be a whole number of at least 1"),
        ("data.strict=maybe", "config.data.strict is 'maybe'; it must be True or False"),
        ("data.crop_scale=(1,", r"config.data.crop_scale is '\(1,'; it must be two numbers above 0, at most 1"),
        ("optimizer.name=sdg", "config.optimizer.name is 'sdg', which is none of .*; did you mean sgd"),
    ],
)
def test_a_value_that_its_field_cannot_take_is_told_with_what_it_must_be(override, message):
    assert re.search(message, cli.explain_override(["train.py", "--config", QUICKSTART, f"--config.{override}"]))


@pytest.mark.parametrize(
    ("experiment", "name", "kept"),
    [
        ("quickstart.py:segmentation", "pspnet_resnet50", {}),
        ("quickstart.py:segmentation", "segnet", {"width": 24}),
        ("fashion_mnist_alexnet.py", "alexnet", {"stem": (5, 2, 2), "pooled": 1, "hidden": 512}),
        ("quickstart.py:detection", "retinanet_resnet50_fpn", {"detections": 100, "nms_threshold": 0.5}),
    ],
)
def test_options_of_another_architecture_are_left_out_as_the_message_says(monkeypatch, experiment, name, kept):
    given = ["--config", f"experiments/{experiment}", f"--config.model.name={name}", "--config.model.options.other=1"]
    with pytest.raises(UserError, match="has no such option") as error:
        models.create(parsed(monkeypatch, *given).model, 3, AXIS)
    flag = shlex.split(str(error.value).partition("leave it out: ")[2])
    config = parsed(monkeypatch, *given[:3], *flag)
    assert config.model.options.to_dict() == kept
    models.create(config.model, 3, AXIS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(): return {'a': 1}", "get_config returns a dict; return the config that get_base made"),
        ("def get_config(): pass", "get_config returns nothing"),
        ("x = 1", "has no function get_config"),
        ("def get_config(:", "SyntaxError: "),
        ("import nowhere", "line 1: ModuleNotFoundError: No module named 'nowhere'"),
        (
            BASE + "def get_config():\n    config = get_base()\n    config.optimizer.lr = 1\n    return config",
            "line 4: lr: no such field; did you mean config.optimizer.learning_rate?",
        ),
        (
            BASE + "def get_config():\n    config = get_base()\n    config.optimiser = 1\n    return config",
            "line 4: optimiser: no such field; did you mean config.optimizer?",
        ),
        (
            BASE + "def get_config():\n    config = get_base()\n    config.update(epochs=3)\n    return config",
            "line 4: epochs: no such field; did you mean config.duration?",
        ),
        (
            BASE + "def get_config():\n    config = get_base()\n    config.optimiser.name = 'sgd'\n    return config",
            "line 4: optimiser: no such field; did you mean config.optimizer?",
        ),
        (BASE + "def get_config():\n    return get_base('audio')", "line 3: KeyError: audio"),
        ("def get_config(): raise ValueError('it has no variant')", "it has no variant"),
        (
            BASE + "def get_config():\n    config = get_base()\n    config.seed = 'one'\n    return config",
            "line 4: Could not override field 'seed'",
        ),
    ],
)
def test_an_experiment_that_fails_is_one_short_line(tmp_path, text, message):
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        ExperimentParser().parse(str(file))
    assert message in str(caught.value) and str(file) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300


@pytest.mark.parametrize("more", [(), ("--config.batch_size=4",), ("--config.model.options.width=4",)])
def test_a_file_that_is_missing_is_named_with_and_without_overrides(monkeypatch, more):
    with pytest.raises(
        UserError, match="^--config: experiments/quikstart.py: no such file; did you mean .*/quickstart"
    ):
        parsed(monkeypatch, "--config", "experiments/quikstart.py", *more)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=1", "config.lr: no such field; did you mean config.optimizer.learning_rate?"),
        ("learning_rate=1", "config.learning_rate: no such field; did you mean config.optimizer.learning_rate?"),
        ("optimizer.lr=1", "config.optimizer.lr: no such field; did you mean config.optimizer.learning_rate?"),
        ("schedule.learning_rate=1", "no such field; did you mean config.optimizer.learning_rate?"),
        ("epochs=10", "config.epochs: no such field; did you mean config.duration=10ep?"),
        ("steps=10", "config.steps: no such field; did you mean config.duration?"),
        ("optimizer.Momentum=1", "did you mean config.optimizer.momentum?"),
        ("data.weight_decay=1", "did you mean config.optimizer.weight_decay?"),
        ("batch_size.x=1", "config.batch_size: a single value, it has no field x"),
        ("zzz=1", "config.zzz: no such field"),
        ("=1", "config.: no such field"),
        ("optimizer=adamw", "config.optimizer: a group of fields; set one of them, such as config.optimizer.beta1"),
    ],
)
def test_a_field_that_is_not_there_is_told_with_the_one_that_was_meant(override, message):
    assert cli.explain_override(["train.py", "--config", QUICKSTART, f"--config.{override}"]).endswith(message)


def test_overrides_without_an_experiment_are_told_what_they_lack():
    assert cli.explain_override(["train.py", "--config.seed=1"]).startswith(
        "config.seed cannot be set: --config is miss"
    )
    assert cli.explain_override(["train.py", "--workdir=x"]) == ""


def test_what_was_meant_is_found_whatever_the_case_or_the_codebase():
    assert did_you_mean("adamW", ("adam", "adamw")) == "; did you mean adamw?"
    assert did_you_mean("last", ("best", "latest")) == "; did you mean latest?"
    assert did_you_mean("SGD", ("sgd", "adam")) == "; did you mean sgd?"
    assert did_you_mean("zzz", ("sgd", "adam")) == ""


def test_a_message_shows_what_a_terminal_would_obey():
    assert one_line("a\nb\x1b[31m \udc80.jpg\x00 Zürich 東京 😀") == r"a b\x1b[31m \udc80.jpg\x00 Zürich 東京 😀"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch_size=3"], "--batch_size is no flag; write --config.batch_size=..."),
        (["--epochs=3"], "--epochs is no flag; write --config.duration=..."),
        (["batch_size=3"], "unexpected argument 'batch_size=3'; write --config.batch_size=..."),
        (["--threshold=a"], "--threshold is 'a'; it must be a number in the range [0.0, 1.0]"),
        (["--draw=maybe"], "--draw is 'maybe'; it must be True or False"),
    ],
)
def test_a_flag_that_is_unknown_or_has_no_valid_value_is_told_with_the_remedy(monkeypatch, arguments, message):
    monkeypatch.setattr("sys.argv", ["morphism eval"])
    command = cli.Command(config="flag")
    command.number("threshold", 0.25, "", 0.0, 1.0)
    command.boolean("draw", False, "")
    try:
        command.parse(["morphism eval", *arguments])
    except flags.Error as error:
        assert command.explained(error) == message
    except UserError as error:
        assert str(error) == message
    else:
        pytest.fail("nothing is refused")
    assert "Flags:" not in cli.Command().help("morphism list", "Lists.")
