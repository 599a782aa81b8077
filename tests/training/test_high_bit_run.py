"""A run on 12-bit images: its range is kept, and evaluation and prediction see what training saw."""

import json

import corpus
import numpy as np
import pytest

from morphism.data import sources
from morphism.data.loose import LooseImages
from morphism.data.pipeline import eval_batches
from morphism.evaluation.loop import evaluate
from morphism.evaluation.run import open_run, open_weights
from morphism.training import loop
from morphism.training.loop import train


@pytest.fixture
def xrays(tmp_path, config):
    """Two classes that differ by 40 of 4,096 levels: in 8 bits of the whole type they are the same."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 8)):
        for level, name in enumerate(("clear", "dense")):
            folder = tmp_path / "xrays" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                values = (rng.integers(0, 8, (8, 8)) + 2000 + 40 * level).astype(np.uint16)
                values[0, 0] = 4095
                (folder / f"{number}.png").write_bytes(corpus.encode(values, "PNG"))
    config.data.update(source=f"folder:{tmp_path / 'xrays'}", val_split="val")
    config.data.train_crop = "center"
    config.augment.mean, config.augment.std = (0.49, 0.49, 0.49), (0.01, 0.01, 0.01)
    return config


def test_a_run_keeps_the_range_that_it_found_and_everything_scales_by_it(tmp_path, xrays, monkeypatch, capsys):
    workdir = tmp_path / "run"
    results = train(xrays, workdir)
    assert "uint16, 32 measured): their values are 2000 to 4095" in capsys.readouterr().out
    kept = {"pixels": "float32", "intensity": [0.0, 4095.0]}
    assert json.loads((workdir / "intensity.json").read_text()) == kept

    monkeypatch.setattr(loop, "settle", None)  # resuming, nothing is looked for
    train(xrays, workdir)
    run = open_run(workdir, "latest")
    assert {"pixels": run.config.data.pixels, "intensity": list(run.config.data.intensity)} == kept
    source = sources.load(run.config.data, "val")
    lines = []
    again = evaluate(run.task, source, run.predictions(source, lines.append))
    assert again["top1"] == results["top1"]
    assert lines == [
        "data: odd images: 16 of more than 8 bits (kept as floats; black and white by config.data.intensity, else by "
        f"each's own bits), first {source[0]['name']}"
    ]

    # An image given alone, whose own bits are fewer, is still scaled by the run's range.
    dark = tmp_path / "dark.png"
    dark.write_bytes(corpus.encode(np.full((8, 8), 2040, np.uint16), "PNG"))
    batch = next(eval_batches(LooseImages([dark], run.classes), run.config, batch_size=1))
    np.testing.assert_allclose(batch["image"], np.full((1, 8, 8, 3), 2040 * 255 / 4095), rtol=1e-6)
    weights = open_weights(xrays, str(workdir), set(), lines.append)
    assert tuple(weights.config.data.intensity) == (0, 4095) and weights.config.data.pixels == "float32"
    overridden = xrays.copy_and_resolve_references()
    with overridden.unlocked():
        overridden.data.intensity = (1900, 2200)
    weights = open_weights(overridden, str(workdir), {"data.intensity"}, lines.append)
    assert tuple(weights.config.data.intensity) == (1900, 2200)
