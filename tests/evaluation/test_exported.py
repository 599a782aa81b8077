"""Exported programs, against the project's own predictions; StableHLO in a process that cannot import the project."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from goldens.drawn import drawn, drawn_calm, drawn_yolox
from ml_collections import ConfigDict

from morphism import models, tasks
from morphism.commands.export import batch_of, format_of, size_of
from morphism.data.loose import LooseImages, Pixels
from morphism.errors import UserError
from morphism.evaluation import stablehlo
from morphism.evaluation.exported import export
from morphism.evaluation.run import Run
from morphism.experiments import quickstart
from morphism.experiments.base import get_base
from morphism.runtime.mesh import AXIS
from morphism.tasks.task import counts
from morphism.weights.convert import from_torch, torch_shapes

DOCS = Path(__file__).parent.parent.parent / "docs" / "export.md"
NAMES = tuple(f"class {number}" for number in range(5))
PARTS = {"objects": NAMES[:3], "ground": (*NAMES[:2], "sky", "road")}
PREVENTED = "import sys; sys.modules['morphism'] = None; exec(open('script.py').read())"
SMALL = {"backbone": "resnet18", "backbone_width": 8, "channels": 16, "head_width": 32, "detections": 12}


def run_of(config, classes=NAMES, weights=drawn):
    model = models.create(config.model, counts(classes), AXIS)
    like = jax.eval_shape(lambda: models.init(model, jax.random.key(0), config.data.image_size))
    variables = from_torch({name: weights(name, shape) for name, shape in torch_shapes(like).items()}, like)
    return Run(config, tasks.of(config, classes), classes, "drawn weights", {}, model, variables)


def classifier():
    return run_of(quickstart.get_config("classification"))


def detector():
    config = quickstart.get_config("detection")
    config.model.options = ConfigDict({"depthwise": False, "detections": 12, "score_threshold": 0.02, "width": 0.125})
    config.augment.update(mean=(0.5,) * 3, std=(0.25,) * 3)  # for weights that keep activations near 1
    return run_of(config, weights=drawn_yolox)


def mask_rcnn():
    config = get_base("instances")
    with config.unlocked():
        config.model.name = "maskrcnn_resnet50_fpn"
        config.model.options = ConfigDict(SMALL | {"proposals": 20, "candidates": 40, "score_threshold": 0.1})
        config.data.image_size = 96

    def calm(name, shape):  # also the logits of masks, of which large ones would enlarge rounding
        return drawn_calm(name, shape) * np.float32(0.1 if "mask_fcn_logits" in name else 1)

    return run_of(config, weights=calm)


def pixels(batch, height, width):
    return np.random.default_rng(height).integers(0, 256, (batch, height, width, 3)).astype(np.uint8)


def given(exported, batch):
    """Random images, the second of which leaves a margin where that may be."""
    height, width = exported.canvas
    sizes = np.tile(np.int32([height, width]), (batch, 1))
    sizes[1] -= [7, 20]
    return (
        {"images": pixels(batch, height, width), "sizes": sizes}
        if exported.sized
        else {"images": pixels(batch, height, width)}
    )


def script(name):
    return re.search(rf"^```python no-run {name}\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)[1]


def loose(images):
    return LooseImages([Pixels(f"image {index}", each) for index, each in enumerate(images)], NAMES)


def test_stablehlo_predicts_the_same_in_a_process_without_this_project(tmp_path):
    run = classifier()
    exported = export(run)
    stablehlo.write(tmp_path / "model.stablehlo", exported)
    images = pixels(3, 28, 28)
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "script.py").write_text(script("run_stablehlo.py"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PREVENTED], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")["probabilities"]
    assert found.shape == (3, 5) and found.dtype == np.float32
    [(expected, _)] = run.predictions(loose(images), print)
    assert found.argmax(axis=1).tolist() == expected["class"].tolist()
    np.testing.assert_allclose(found.max(axis=1), expected["confidence"], rtol=1e-5)


def test_stablehlo_holds_a_program_per_kind_of_device_and_finds_what_the_run_finds(tmp_path):
    """Where an image is smaller than its canvas, what lies around it changes nothing."""
    run = detector()
    stablehlo.write(tmp_path / "model.stablehlo", export(run))
    file = np.load(tmp_path / "model.stablehlo")
    about = json.loads(file["about.json"])
    programs = {name: jax.export.deserialize(bytearray(file[each])) for name, each in about["programs"].items()}
    assert {name: each.platforms for name, each in programs.items()} == {
        "cpu": ("cpu",),
        "gpu": ("cuda", "tpu"),
        "tpu": ("cuda", "tpu"),
    }
    images, sizes = pixels(3, 96, 96), np.full((3, 2), 96, np.int32)
    predict = jax.jit(programs["cpu"].call)
    weights = {name: file[name] for name in about["weights"]}
    found = jax.device_get(predict(weights, images, sizes))
    [(expected, _)] = run.predictions(loose(images), print)
    assert found["valid"].sum() > 12
    np.testing.assert_array_equal(np.where(found["valid"], found["classes"], -1), expected["classes"])
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-2)  # pixels; batches of 3 and 4 round apart
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-6)

    sizes[1], around = (96, 64), images.copy()
    around[1, :, 64:] = 0
    first, second = (jax.device_get(predict(weights, each, sizes)) for each in (images, around))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
        np.testing.assert_allclose(value[::2], found[name][::2], atol=1e-4)


def test_what_is_to_be_known_stands_in_the_file(tmp_path):
    exported = export(detector(), size=(64, 96), batch=2)
    facts = json.loads(json.dumps(exported.facts))
    assert facts["classes"] == list(NAMES) and facts["task"] == "detection" and facts["model"] == "yolox_nano"
    assert facts["inputs"]["images"]["shape"] == [2, 64, 96, 3] and facts["inputs"]["images"]["dtype"] == "uint8"
    assert facts["outputs"]["boxes"]["shape"] == [2, 12, 4]
    assert facts["preparation"]["canvas"] == [64, 96] and facts["preparation"]["then"] == "to the top left"
    assert facts["normalisation"]["std"] == [0.25] * 3 and len(facts["digest"]) == 64


def segmenter():
    return run_of(quickstart.get_config("segmentation"))


def test_a_network_of_parts_returns_what_each_finds_and_what_is_fused():
    outputs = export(run_of(quickstart.get_config("panoptic"), PARTS)).facts["outputs"]
    assert {"objects/boxes", "objects/valid", "ground/classes", "panoptic/segments"} <= outputs.keys()
    assert outputs["panoptic/segments"]["shape"] == ["batch", 96, 96]
    assert outputs["panoptic/segments"]["dtype"] == "uint16"


@pytest.mark.parametrize(
    ("make", "size"),
    [(classifier, (29, 37)), (detector, (96, 64)), (segmenter, (45, 61)), (mask_rcnn, (91, 123))],
)
def test_onnx_predicts_the_same(make, size, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    from morphism.evaluation.onnx import file

    exported = export(make(), size)
    file.write(tmp_path / "model.onnx", exported)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["preparation"])["canvas"] == list(size) and metadata["opset"] == "18"
    inputs = given(exported, batch=3)
    found = dict(zip([each.name for each in session.get_outputs()], session.run(None, inputs), strict=True))
    expected = jax.device_get(jax.jit(exported.program)(exported.weights, *inputs.values()))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, atol=1e-4, rtol=1e-4, err_msg=name)
        if name.endswith("valid"):
            assert value.sum() > 3


def test_what_onnx_cannot_hold_is_named_with_the_other_format(tmp_path):
    pytest.importorskip("onnx")
    from dataclasses import replace

    from morphism.evaluation.onnx import file

    exported = export(classifier())
    odd = replace(exported, program=lambda weights, images: {"x": jax.lax.cummax(images.astype(np.float32))})
    with pytest.raises(UserError, match=r"cifar_resnet8: ONNX export has no rule for cummax; write --format=stablehlo"):
        file.write(tmp_path / "model.onnx", odd)
    assert not list(tmp_path.iterdir())


def test_a_size_that_the_network_cannot_take_is_refused_with_one_that_it_can():
    with pytest.raises(UserError, match=r"--size=100x64: .*multiples of 32; try --size=128x64"):
        export(detector(), (100, 64))


def test_the_format_is_that_of_the_suffix():
    assert [format_of(Path(f"x.{kind}"), "") for kind in ("safetensors", "stablehlo", "onnx")] == [
        "safetensors",
        "stablehlo",
        "onnx",
    ]
    assert (size_of(""), size_of("64"), size_of("64x96"), batch_of("any"), batch_of("8")) == (
        None,
        (64, 64),
        (64, 96),
        0,
        8,
    )


@pytest.mark.parametrize(
    ("parse", "message"),
    [
        (lambda: format_of(Path("x.pt"), ""), "x.pt: its suffix says no format"),
        (lambda: format_of(Path("x.onnx"), "tflite"), "--format is 'tflite'; it must be safetensors"),
        (lambda: format_of(Path("x.onnx"), "stablehlo"), "--format=stablehlo is written as .stablehlo"),
        (lambda: size_of("0x3"), "--size is '0x3'"),
        (lambda: batch_of("0"), "--batch is '0'"),
    ],
)
def test_other_flags_are_refused(parse, message):
    with pytest.raises(UserError, match=message):
        parse()
