"""The cost of each augmentation on the device: the training prologue with one of them switched on.

    python benchmarks/augmentation.py [--batch 32] [--size 224] [--rounds 5]

If torch and torchvision are installed (neither is a dependency), torchvision.transforms.v2 is measured on the same
uint8 images, one at a time, as its references apply it. The two take turns; the table gives medians over rounds.
"""

import argparse
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import turns

from morphism.augment import augment
from morphism.experiments.base import get_base

WAYS = {
    "flip and normalise": {},
    "crop of padded": {"crop_padding": 16},
    "colour jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "lighting": {"lighting": 0.1},
    "randaugment": {"auto": "randaugment"},
    "trivialaugment": {"auto": "trivialaugment"},
    "erasing": {"erase_probability": 1.0},
    "mixup and cutmix": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0},
}


def own(fields: dict, images: np.ndarray) -> Callable[[], None]:
    config = get_base("classification").augment
    config.update(fields)
    rows = np.arange(len(images), dtype=np.int32)
    batch = jax.device_put({"image": images, "label": rows % 10, "id": rows, "draw": rows * 0})
    step = jax.jit(lambda batch: augment(jax.random.key(0), batch, config, 10)["image"])
    return lambda: jax.block_until_ready(step(batch))


def torchvisions(images: np.ndarray, size: int) -> dict[str, Callable[[], None]]:
    """The same augmentations by torchvision, if it is installed, except those that it applies to whole batches."""
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision")):
        return {}
    import torch
    from torchvision.transforms import v2

    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    ways = {
        "flip and normalise": [],
        "crop of padded": [v2.RandomCrop(size, padding=16)],
        "colour jitter": [v2.ColorJitter(0.4, 0.4, 0.4, 0.1)],
        "randaugment": [v2.RandAugment()],
        "trivialaugment": [v2.TrivialAugmentWide()],
    }
    each = {name: v2.Compose([*steps, v2.RandomHorizontalFlip(), *finish]) for name, steps in ways.items()}
    each["erasing"] = v2.Compose([v2.RandomHorizontalFlip(), *finish, v2.RandomErasing(p=1.0)])
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    return {name: lambda way=way: [way(tensor) for tensor in tensors] and None for name, way in each.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "augmentation.json")
    args = parser.parse_args()

    images = np.random.default_rng(0).integers(0, 256, (args.batch, args.size, args.size, 3), np.uint8)
    runs = {(name, "morphism"): own(fields, images) for name, fields in WAYS.items()}
    runs |= {(name, "torchvision"): run for name, run in torchvisions(images, args.size).items()}
    for run in runs.values():
        run()
    speeds = {key: args.batch / row["wall"] for key, row in turns.medians(runs, args.rounds).items()}

    device = jax.devices()[0].device_kind
    print(f"images/s, batch {args.batch}, {args.size}x{args.size}, {device}, medians of {args.rounds}")
    print(f"{'':22}{'morphism':>12}{'torchvision':>14}")
    for name in WAYS:
        peer = speeds.get((name, "torchvision"))
        print(f"{name:22}{speeds[name, 'morphism']:12.0f}{f'{peer:14.0f}' if peer else '-':>14}")
    record = {
        "device": device,
        "cores": os.cpu_count(),
        "batch": args.batch,
        "size": args.size,
        "images_per_s": {f"{way}, {library}": speed for (way, library), speed in speeds.items()},
    }
    turns.save(args.output, record)


if __name__ == "__main__":
    main()
