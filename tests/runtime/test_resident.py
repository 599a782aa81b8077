"""A split on the devices gives the batches of the host's pipeline to the bit."""

import jax
import numpy as np
import pytest

from morphism.data import sources
from morphism.data.fixed import refusal
from morphism.data.pipeline import train_batches
from morphism.errors import UserError
from morphism.experiments.base import get_base
from morphism.runtime import resident
from morphism.runtime.mesh import HOST_ONLY
from morphism.runtime.resume import among
from morphism.training.feed import training_pairs


def classification(**data):
    config = get_base().copy_and_resolve_references().unlock()
    config.batch_size = 8
    config.data.update(
        {"train_split": "train[:50]", "image_size": 24, "resize_size": 28, "train_crop": "center"} | data
    )
    return config


def segmentation(source="scene_masks:21x32", crop=(24, 20), flip=0.5, **data):
    config = get_base("segmentation").copy_and_resolve_references().unlock()
    config.batch_size = 8
    config.augment.flip_probability = flip
    config.data.update({"source": source, "crop": crop, "resize": "none", "border_weight": 2.0} | data)
    return config


def detection(**augment):
    config = get_base("instances").copy_and_resolve_references().unlock()
    config.batch_size = 4
    config.augment.update({"flip_probability": 0.0} | augment)
    config.data.update(source="scenes:12x48", resize="fit", canvases=((40, 40),), max_boxes=8, mask_size=14)
    return config


def both(config, mesh, start, stop):
    source = sources.load(config.data, config.data.train_split)
    host = list(train_batches(source, config, start_step=start, stop_step=stop))
    config.data.on_device = True
    resident.check(source, source, config, mesh)
    return host, list(training_pairs(source, config, mesh, start, stop))


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize(
    "config",
    [
        classification(),
        classification(repeats=2, workers=0),
        classification(balanced=True),
        segmentation(),
        segmentation(crop=(40, 20)),
        segmentation(crop=(40, 40), flip=0.0, resize="shorter", image_size=36),
        detection(),
    ],
    ids=["label", "repeated", "balanced", "cut and flipped", "padded too", "resized", "masks of objects"],
)
def test_batches_are_those_of_the_host_on_any_devices_from_any_step(config, devices, mesh_of):
    host, pairs = both(config.copy_and_resolve_references(), mesh_of(devices), 5, 9)
    assert len(host) == len(pairs) == 4
    for expected, (rows, batch) in zip(host, pairs, strict=True):
        assert batch.keys() == expected.keys() - set(HOST_ONLY)
        for key, value in batch.items():
            assert value.dtype == expected[key].dtype and np.array_equal(jax.device_get(value), expected[key]), key
            assert len(value.addressable_shards) == devices
        for key in ("id", "draw", "valid", "odd"):
            assert np.array_equal(rows[key], expected[key])


def test_a_record_that_cannot_be_read_is_replaced_as_on_the_host(mesh_of, monkeypatch):
    config = segmentation()
    config.data.broken = "skip"
    real = sources.scene_masks.SceneMasks.__getitem__

    def reads(self, index):
        if index in (4, 20):
            raise UserError("broken; mend it")
        return real(self, index)

    monkeypatch.setattr(sources.scene_masks.SceneMasks, "__getitem__", reads)
    host, pairs = both(config, mesh_of(1), 0, 6)
    assert any((batch["unread"] >= 0).any() for batch in host)
    for expected, (rows, batch) in zip(host, pairs, strict=True):
        assert all(np.array_equal(jax.device_get(batch[key]), expected[key]) for key in batch)
        assert np.array_equal(rows["unread"], expected["unread"])


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (classification(train_crop="random_resized"), "config.data.train_crop='random_resized' draws crops"),
        (
            segmentation(scale=(0.5, 2.0)),
            r"config.data.scale=\(0.5, 2.0\) draws .*set config.data.scale='\(1.0, 1.0\)'",
        ),
        (segmentation(cat_max_ratio=0.75), "config.data.cat_max_ratio=0.75 draws"),
        (segmentation(resize="shorter", image_size=36), "resized before they are cropped.*set config.data.resize=none"),
        (segmentation("masks:{tall}"), "its images have 2 sizes; set config.data.on_device to False"),
        (detection(flip_probability=0.5), "flip_probability=0.5 draws .*set config.augment.flip_probability=0.0"),
        (
            detection(scale_jitter=(0.1, 2.0)),
            r"config.augment.scale_jitter=.* draws .*set config.augment.scale_jitter='\(\)'",
        ),
        (
            detection(flip_probability=0.5, zoom_out=0.5),
            "config.augment.zoom_out=0.5 and config.augment.flip_probability=0.5 draw on the host; set "
            "config.augment.zoom_out=0.0 and config.augment.flip_probability=0.0",
        ),
    ],
)
def test_what_the_host_draws_is_refused_in_one_line(config, field, mesh_of, tmp_path):
    if "{tall}" in config.data.source:
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
        from PIL import Image

        for name, size in {"a": (30, 30), "b": (30, 40)}.items():
            Image.new("RGB", size).save(tmp_path / "images" / f"{name}.png")
            Image.new("L", size).save(tmp_path / "masks" / f"{name}.png")
        (tmp_path / "classes.txt").write_text("ground\nsky\n")
        config.data.source = f"masks:{tmp_path}"
    config.data.on_device = True
    source = sources.load(config.data, "train")
    with pytest.raises(UserError, match=f"^config.data.on_device: .*{field}"):
        resident.check(source, source, config, mesh_of(1))


def test_images_on_several_canvases_and_too_many_for_the_device_are_refused(mesh_of, monkeypatch):
    config = detection()
    config.data.update(resize="shorter", image_size=32, canvases=((48, 32), (32, 48)))
    source = sources.load(config.data, "train")

    class Turned:
        def __getattr__(self, name):
            return getattr(source, name)

        sizes = np.where(np.arange(12)[:, None] % 2, (48, 32), (32, 48))
        classes, targets = source.classes, source.targets

        def __len__(self):
            return 12

        def __getitem__(self, index):
            return source[index]

    assert "2 canvases" in refusal(Turned(), config)
    config = classification(on_device=True)
    source = sources.load(config.data, config.data.train_split)
    assert 0 < resident.bytes_of(source, source, config, mesh_of(2)) / (75 * 24 * 24 * 3) - 1 < 0.1
    monkeypatch.setattr(resident, "_room", lambda: 100_000)
    with pytest.raises(UserError, match="take 0.0 GB on each device.*set it to False"):
        resident.check(source, source, config, mesh_of(1))


def test_a_run_may_change_where_its_data_is():
    from morphism.runtime.resume import FREE

    assert among(FREE, "data.on_device") and among(FREE, "data.broken")
