"""Workdirs as a training and `morphism eval` leave them, written by hand: what reports are tested on."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from morphism.experiments import quickstart

HOSTILE = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "a & b", "' onclick='alert(3)\u202e")
DAP = {"cls": 0.2, "loc": 0.1, "both": 0.0, "dupe": 0.01, "bkg": 0.05, "miss": 0.15, "fp": 0.25, "fn": 0.2}


def classified(folder: Path, classes=HOSTILE, images=40, side=32, **fields) -> Path:
    """A run of classification: image i is of class i % K, and predicted as 0 if i is a multiple of 5."""
    config = quickstart.get_config("classification")
    config.update_from_flattened_dict({"duration": "30", "batch_size": 64} | fields)
    start(folder, config, classes)
    lines = [
        {"step": step, "train/loss": 4 / step, "train/images_per_s": 640.0, "train/input_wait": 0.1, "train/mfu": 0.4}
        for step in (10, 20, 30)
    ]
    lines += [{"step": step, "val/top1": top1, "val/loss": 0.5} for step, top1 in ((10, 0.75), (20, 0.8), (30, 0.7))]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    true = [index % len(classes) for index in range(images)]
    found = [0 if index % 5 == 0 else label for index, label in enumerate(true)]
    pairs = list(zip(true, found, strict=True))
    matrix = [[pairs.count((a, b)) for b in range(len(classes))] for a in range(len(classes))]
    right = sum(a == b for a, b in pairs) / images
    summary = {"top1": right, "top5": 1.0, "loss": 0.5, "examples": images, "confusion": matrix}
    records = [
        {
            "id": index,
            "name": f"{classes[a]}/{index}.png",
            "score": 0.9 if a == b else 0.1,
            "true": classes[a],
            "predicted": classes[b],
            "confidence": 0.9,
            "cells": [[a, b, 1]],
        }
        for index, (a, b) in enumerate(pairs)
    ]
    worst = [index for index, (a, b) in enumerate(pairs) if a != b][:4]
    rng = np.random.default_rng(0)
    small = {f"{index}_found.jpg": noise(rng, side) for index in range(images)}
    evaluated(folder, summary, records, {"score": "probability", "worst": worst, "best": [1]}, small)
    return folder


def start(folder, config, classes):
    folder.mkdir()
    values = {
        "config": config.to_dict(),
        "classes": list(classes),
        "data": {"train": {"records": 640, "sha256": "0"}, "val": {"records": 40, "sha256": "1"}},
        "manifest": [
            {
                "started": "2026-01-02T03:04:05+0000",
                "packages": {"jax": "0.10"},
                "git_revision": "",
                "devices": ["cpu"],
                "parameters": 78_042,
                "multiply_accumulates": 9_600_000,
            }
        ],
    }
    for name, value in values.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def evaluated(folder, summary, records, index, small):
    facts = {"split": "val", "source": "embedded", "views": "center", "step": 20}
    (folder / "eval_val.json").write_text(json.dumps(facts | summary))
    (folder / "eval_val_images.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    with zipfile.ZipFile(folder / "eval_val_images.zip", "w") as archive:
        archive.writestr("index.json", json.dumps(index))
        for name, content in small.items():
            archive.writestr(name, content)


def noise(rng, side):
    content = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(content, "JPEG", quality=78)
    return content.getvalue()


def detected(folder: Path) -> Path:
    """A run of detection, with TIDE's numbers and a precision over recall; without small images."""
    start(folder, quickstart.get_config("detection"), ("top", "bag"))
    (folder / "metrics.jsonl").write_text('{"step": 100, "train/loss": 2.5}\n{"step": 200, "train/loss": 1.5}\n')
    summary = {"ap": 0.5, "ap50": 0.71, "ap_large": -1.0, "examples": 2, "per_class": {"top": 0.6, "bag": 0.4}}
    summary |= {"tide": {"ap50": 0.7, "dap": DAP, "errors": {"cls": 3, "miss": 1}}}
    records = [
        {
            "id": 0,
            "name": "0",
            "score": 0.5,
            "true": {"top": 2},
            "predicted": {"top": 1},
            "cells": [[0, 0, 1], [0, 2, 1]],
        },
        {"id": 1, "name": "1", "score": 0.0, "true": {"bag": 1}, "predicted": {"top": 1}, "cells": [[1, 0, 1]]},
    ]
    evaluated(folder, summary, records, {"score": "F1", "worst": [1], "best": [0]}, {})
    (folder / "eval_val_images.zip").unlink()
    recall = [0.0, 0.5, 1.0]
    curve = {"classes": ["top", "bag"], "of": "boxes", "recall": recall, "precision": [[1, 0.9, 0], None]}
    curve |= {"mean": {"precision": [1, 0.9, 0.0], "average_precision": 0.6}}
    (folder / "plots" / "val").mkdir(parents=True)
    (folder / "plots" / "val" / "plots.json").write_text(json.dumps({"precision_recall": curve}))
    return folder
