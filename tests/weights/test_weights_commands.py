"""weights.run, weights.export, and eval.py and predict.py with --weights, as a person runs them: one process each."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from goldens.drawn import drawn, drawn_yolox, random_image
from ml_collections import ConfigDict
from PIL import Image
from test_commands import MORPHISM, run, train

from morphism import models
from morphism.data.sources.embedded import Embedded
from morphism.experiments import quickstart
from morphism.runtime.mesh import AXIS
from morphism.weights import files
from morphism.weights.convert import from_torch, torch_shapes

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "classifiers.npz")


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """torchvision's ResNet-18 of 1000 classes with drawn weights, as a file."""
    fields = {"name": "resnet18", "dtype": "float32", "remat": False, "sync_bn": False, "frozen_bn": False}
    model = models.create(ConfigDict(fields | {"options": {}}), 1000, AXIS)
    shapes = torch_shapes(jax.eval_shape(lambda: models.init(model, jax.random.key(0), 64)))
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    files.write(path, {name: drawn(name, shape) for name, shape in shapes.items()})
    return path


def run_weights(path, inputs, outputs, *more, experiment="imagenet_resnet.py:18"):
    config = ("--config", f"experiments/{experiment}", "--config.data.source=embedded", "--weights", str(path))
    return run(*MORPHISM, "outputs", *config, "--inputs", str(inputs), "--outputs", str(outputs), *more)


def test_a_networks_outputs_and_features_are_torchvisions(resnet18, tmp_path):
    """The number of classes, 1000, is the file's, although the data has ten."""
    np.savez(tmp_path / "in.npz", images=random_image(139, 181))
    done = run_weights(resnet18, tmp_path / "in.npz", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    assert "1000 classes, on 1 images" in done.stdout and "float32 [1, 1000]" in done.stdout
    found, expected = np.load(tmp_path / "out.npz"), GOLDENS["logits/resnet18/139x181"]
    assert found.files == ["logits"]
    assert np.abs(found["logits"][0] - expected).max() <= 1e-5 * np.abs(expected).max()

    done = run_weights(resnet18, tmp_path / "in.npz", tmp_path / "maps.npz", "--features")
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "maps.npz")
    assert set(found.files) == {"relu", "layer1", "layer2", "layer3", "layer4"}
    assert found["layer4"].shape == (1, 5, 6, 512)


def test_a_trained_run_is_exported_and_evaluated_from_the_file(tmp_path):
    assert train(tmp_path / "run", "--config.data.val_split=val").returncode == 0
    exported = tmp_path / "out.safetensors"
    done = run(*MORPHISM, "export", "--workdir", str(tmp_path / "run"), "--output", str(exported))
    assert done.returncode == 0, done.stderr
    assert f"SHA-256 {files.sha256(exported)}" in done.stdout

    assert run("eval.py", "--workdir", str(tmp_path / "run")).returncode == 0
    small = ("--config.data.image_size=8", "--config.data.resize_size=8", "--config.batch_size=16")
    given = ("--config", "experiments/quickstart.py", *small, "--weights", str(exported))
    done = run("eval.py", *given, "--output", str(tmp_path / "result.json"))
    assert done.returncode == 0, done.stderr
    expected = json.loads((tmp_path / "run" / "eval_val.json").read_text())
    found = json.loads((tmp_path / "result.json").read_text())
    assert found.pop("weights") == str(exported) and found.pop("sha256") == files.sha256(exported)
    assert expected.pop("step") == 4
    assert found == expected

    Image.fromarray(Embedded("val")[0]["image"]).save(tmp_path / "one.png")
    lines = {
        run(*MORPHISM, "predict", *chosen, str(tmp_path / "one.png")).stdout
        for chosen in (given, ("--workdir", str(tmp_path / "run")))
    }
    assert len(lines) == 1 and next(iter(lines)).startswith(str(tmp_path / "one.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval.py", "--weights=w.pth"), "--config is missing"),
        (("eval.py", "--workdir=x", "--weights=w.pth"), "--workdir has a config and weights of its own"),
        (("eval.py", "--config=experiments/quickstart.py", "--weights=w.pth"), "w.pth: no such file of weights"),
        (("eval.py", "--config=experiments/quickstart.py", "--weights=w.pth", "--draw"), "--output is missing"),
        (("eval.py", "--config=experiments/quickstart.py", "--weights=torchvision:resnet18/V1"), "has no such weights"),
        ((*MORPHISM, "outputs", "--config=experiments/quickstart.py"), "--weights is missing"),
        (
            (
                *MORPHISM,
                "outputs",
                "--config=experiments/quickstart.py",
                "--weights=w",
                "--inputs=no.npz",
                "--outputs=o",
            ),
            "no.npz: cannot be read",
        ),
        ((*MORPHISM, "export", "--workdir=x"), "--output is missing"),
        (
            (*MORPHISM, "export", "--workdir=/nowhere", "--output=o.safetensors"),
            "/nowhere/config.json: no such file",
        ),
    ],
)
def test_what_a_command_lacks_is_named(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 8, 8, 3)), r"images are float64 \[1, 8, 8, 3\]; give float32"),
        (np.zeros((8, 8, 3), np.float32), r"images are float32 \[8, 8, 3\]; give float32 \[B,H,W,3\]"),
    ],
)
def test_inputs_of_another_form_are_refused(images, message, tmp_path):
    from morphism.commands.outputs import read_images
    from morphism.errors import UserError

    np.savez(tmp_path / "in.npz", images=images)
    with pytest.raises(UserError, match=message):
        read_images(tmp_path / "in.npz")


def test_of_a_detector_the_final_boxes_are_written_beside_its_raw_outputs(tmp_path):
    config = quickstart.get_config("detection")
    model = models.create(config.model, 5, AXIS)
    like = jax.eval_shape(lambda: models.init(model, jax.random.key(0), 64))
    tensors = {name: drawn_yolox(name, shape) for name, shape in torch_shapes(like).items()}
    files.write(tmp_path / "detector.safetensors", tensors)
    images = random_image(64, 96, batch=2)
    np.savez(tmp_path / "in.npz", images=images)
    done = run_weights(
        tmp_path / "detector.safetensors",
        tmp_path / "in.npz",
        tmp_path / "out.npz",
        experiment="quickstart.py:detection",
    )
    assert done.returncode == 0, done.stderr
    assert "5 classes, on 2 images" in done.stdout
    found = np.load(tmp_path / "out.npz")
    sizes = np.tile(np.int32([64, 96]), (2, 1))

    @jax.jit
    def run_here(variables, images):
        outputs = model.apply(variables, images, train=False)
        return outputs, model.detect(outputs, sizes)

    outputs, expected = run_here(from_torch(tensors, like), images)
    np.testing.assert_allclose(found["cls_logits"], outputs["cls_logits"], rtol=1e-3, atol=1e-3)
    assert expected["valid"].any()
    assert set(expected) == {"boxes", "scores", "classes", "valid"}
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-2)
