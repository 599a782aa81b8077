"""What training draws: the first batch as the network sees it, and evaluations, without changing the training."""

import io
import json
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from morphism import frames
from morphism.augment import normalise
from morphism.data import outlines
from morphism.evaluation.drawings import keeping
from morphism.evaluation.loop import Predicted
from morphism.evaluation.sheets import denormalised
from morphism.runtime import events
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.digest import digest
from morphism.runtime.writer import Writer
from morphism.tasks.drawing import batch
from morphism.tasks.drawing.shrink import shrunk
from morphism.tasks.layers import Object, Objects, Tag, of_mask
from morphism.tasks.paste import encoded
from morphism.training.drawer import Drawer
from morphism.training.loop import train

pytestmark = pytest.mark.usefixtures("blockless")


def final(workdir):
    with Checkpoints(workdir) as checkpoints:
        return digest(checkpoints.read(8))


def images_in(workdir):
    """The tags and steps of TensorBoard's images."""
    found = []
    for path in (workdir / "tensorboard").iterdir():
        for _, event in events.records(path.read_bytes()):
            for value in event.summary.value:
                if value.HasField("image"):
                    width, height = Image.open(io.BytesIO(value.image.encoded_image_string)).size
                    assert (value.image.width, value.image.height) == (width, height)
                    found.append((value.tag, event.step))
    return found


def test_a_run_draws_each_evaluation_and_ends_with_the_same_bits(config, tmp_path):
    config.update(eval_every="4", plots=False)
    config.data.val_split = "val[:16]"
    train(config, tmp_path / "plain")
    assert not (tmp_path / "plain" / "plots").exists()
    config.plots = True
    train(config, tmp_path / "drawn")
    plots = tmp_path / "drawn" / "plots"
    assert {path.name for path in plots.iterdir()} == {"first_batch.png", "curves.png", "val_16"}
    assert final(tmp_path / "drawn") == final(tmp_path / "plain")
    assert np.sum(json.loads((plots / "val_16" / "plots.json").read_text())["confusion"]["counts"]) == 16
    found = images_in(tmp_path / "drawn")
    assert ("train/first_batch", 0) in found and {("val/confusion", 4), ("val/examples", 8)} <= set(found)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("drawings")]

    before = (plots / "first_batch.png").stat().st_mtime_ns
    config.duration = "12"
    train(config, tmp_path / "drawn")
    assert (plots / "first_batch.png").stat().st_mtime_ns == before  # a run that continues does not draw it again


def test_what_cannot_be_drawn_is_reported_once_and_raises_nothing(tmp_path, capsys):
    (tmp_path / "plots").write_text("a file where the folder should be")
    with Writer(tmp_path, 8, 0, active=True) as writer, Drawer(tmp_path, writer, active=True) as drawer:
        drawer.curves()
        drawer.curves()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("not drawn, and the training goes on: ") and "plots: cannot be made" in line


def test_denormalised_images_are_those_that_were_normalised(config):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8)
    augment = config.augment
    np.testing.assert_array_equal(
        denormalised(np.asarray(normalise(images, augment.mean, augment.std)), augment), images
    )


def test_targets_of_a_batch_are_drawn_with_mixed_labels_and_masks_in_their_frames():
    box, mask = np.float32([2.5, 3.0, 12.0, 9.0]), np.zeros((8, 8), np.uint8)
    mask[:, :4] = 1
    unknown = np.full((8, 8), 255, np.uint8)
    row = {
        "image": np.zeros((16, 20, 3), np.float32),
        "boxes": np.stack([box, box, 0 * box]),
        "classes": np.array([1, 0, -1]),
        "crowd": np.array([False, True, False]),
        "masks": np.stack([mask, unknown, mask]),
        "label": np.float32([0.25, 0.0, 0.75]),
        "segmentation": np.ones((16, 20), np.uint8),
    }
    targets = {"boxes": ("a", "b"), "label": ("x", "y", "z"), "segmentation": ("ground", "sky")}
    regions, objects, tag = batch.layers(row, targets)
    assert tag == Tag(("x", "y", "z"), [("z", 0.75), ("x", 0.25)]) and regions.map.shape == (16, 20)
    assert [(each.number, each.framed, each.ignored) for each in objects.objects] == [
        (1, False, False),
        (0, True, True),
    ]
    drawn = outlines.mask(objects.objects[0].outline, (16, 20))
    (left, top), (wide, tall) = frames.frame(box, 8)
    expected = [
        [left <= x + 0.5 < left + 4 * wide and top <= y + 0.5 < top + 8 * tall for x in range(20)] for y in range(16)
    ]
    np.testing.assert_array_equal(drawn, expected)


def test_layers_shrink_with_their_image():
    pixels, mask = np.zeros((400, 800, 3), np.uint8), np.zeros((400, 800), np.uint8)
    pixels[100:200, 200:400], mask[100:200, 200:400] = 255, 1
    outline = encoded(mask == 1, (0, 0), mask.shape)
    objects = Objects(("a",), [Object(0, 0.5, (200, 100, 400, 200), outline)])
    small, (regions, found) = shrunk(pixels, [of_mask(("a", "b"), mask), objects], 100)
    white = small[..., 0] == 255
    assert small.shape == (50, 100, 3) and white.sum() == 25 * 12  # the last row is half white
    np.testing.assert_array_equal(regions.map[white], 1)
    assert found.objects[0].box == pytest.approx([25, 12.5, 50, 25])
    assert outlines.mask(found.objects[0].outline, (50, 100)).sum() == regions.map.sum()
    assert shrunk(pixels, [regions], 800)[0] is pixels


def test_predictions_are_kept_only_of_the_wanted_records():
    rows = [{"id": np.array([0, 1, 2]), "x": np.arange(3)}, {"id": np.array([3, 4]), "x": np.arange(3, 5)}]
    batches, kept = [Predicted(each, {}) for each in rows], []
    assert list(keeping(batches, [1, 2], kept)) == batches
    assert jax.tree.map(lambda x: x.tolist(), kept) == [{"id": [1, 2], "x": [1, 2]}]
