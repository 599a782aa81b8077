"""Writes augment.npz: what torchvision's transforms make of small pictures, with fixed parameters.

    python tests/goldens/make_augment.py        needs torch 2.13 and torchvision 0.29, on CPU, a minute

Every operation of RandAugment and TrivialAugmentWide on uint8 pictures, and their magnitudes at several sizes; the
colour adjustments on float pictures; erasing, with quantiles of 20,000 boxes drawn; mixup and cutmix of a pair.
"""

import contextlib
from pathlib import Path

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

SPACES = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}
BINS = {"randaugment": (9,), "trivialaugment": (20, 30)}
SIZES = ((24, 24), (29, 38), (176, 176), (224, 224))
CHANGES = {  # adjustment -> its parameters
    "brightness": (0.0, 0.6, 1.4),
    "contrast": (0.0, 0.6, 1.4),
    "saturation": (0.0, 0.6, 1.4),
    "hue": (-0.5, -0.13, 0.2, 0.5),
}
PART = np.s_[4:18, 4:20]  # of a picture, where float results are stored
QUANTILES = np.linspace(0, 1, 21)


def pictures():
    """Two of uint8: a busy one, and one of few levels, flat and grey in places."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:22, :30]
    waves = 128 + 90 * np.stack([np.sin(x / 5), np.cos(y / 4 + x / 9), np.sin((x + y) / 7)], -1)
    busy = np.clip(waves + rng.normal(0, 25, (22, 30, 3)), 0, 255).astype(np.uint8)
    flat = np.full((22, 30, 3), 90, np.uint8)
    flat[4:17, 8:24] = (200, 40, 77)
    flat[10:14, 3:12] = 3
    flat[..., 2] = 90
    return {"busy": busy, "flat": flat}


def to_torch(image):
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def to_numpy(image):
    return image.numpy().transpose(1, 2, 0)


def automatic(found):
    for space, make in SPACES.items():
        transform = make(interpolation=F.InterpolationMode.BILINEAR)  # as the references have it
        for height, width in SIZES:
            for name, (magnitudes, _) in transform._AUGMENTATION_SPACE.items():
                values = magnitudes(31, height, width)
                if values is not None:
                    found[f"{space}/bins/{height}x{width}/{name}"] = values.numpy().astype(np.float64)
        for picture, image in pictures().items():
            height, width = image.shape[:2]
            for name, (magnitudes, signed) in transform._AUGMENTATION_SPACE.items():
                values = magnitudes(31, height, width)
                for number in BINS[space] if values is not None else (0,):
                    for sign in (1, -1) if signed else (1,):
                        magnitude = 0.0 if values is None else sign * float(values[number])
                        changed = transform._apply_image_or_video_transform(
                            to_torch(image),
                            name,
                            magnitude,
                            interpolation=transform.interpolation,
                            fill=transform._fill,
                        )
                        found[f"{space}/{picture}/{name}/{number}/{sign}"] = to_numpy(changed)


def colours(found):
    for picture, image in pictures().items():
        image = image[PART]
        for name, factors in CHANGES.items():
            for factor in factors:
                changed = getattr(F, f"adjust_{name}")(to_torch(image).float() / 255, factor)
                found[f"colour/{picture}/{name}/{factor}"] = to_numpy(changed).astype(np.float32)
    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    params = {"brightness_factor": 1.3, "contrast_factor": 0.7, "saturation_factor": 1.2, "hue_factor": 0.07}
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0, 3, 1]):
        changed = jitter.transform(
            to_torch(pictures()["busy"][PART]).float() / 255, params | {"fn_idx": torch.tensor(order)}
        )
        found["jitter/" + "".join(map(str, order))] = to_numpy(changed)


def erasing(found):
    torch.manual_seed(0)
    transform = v2.RandomErasing(p=1)
    image = to_torch(pictures()["busy"]).float()
    found["erase/box"] = np.array([3, 11, 14, 9])
    found["erase/image"] = to_numpy(F.erase(image, 3, 11, 14, 9, torch.zeros(1, 1, 1))).astype(np.uint8)
    drawn = [transform.make_params([image]) for _ in range(20_000)]
    boxes = np.array([[each[side] for side in "ijhw"] for each in drawn if each["v"] is not None])
    found["erase/none"] = np.array(1 - len(boxes) / len(drawn))
    found["erase/quantiles"] = np.quantile(boxes, QUANTILES, axis=0)


def mixing(found):
    images = torch.stack([to_torch(each).float() / 255 for each in pictures().values()])
    labels = torch.tensor([2, 0])
    box = (5, 3, 17, 19)  # x0, y0, x1, y1
    mixes = {
        "mixup": (v2.MixUp(num_classes=4), {"lam": 0.3}),
        "cutmix": (v2.CutMix(num_classes=4), {"box": box, "lam_adjusted": 1 - 12 * 16 / (22 * 30)}),
    }
    for name, (transform, params) in mixes.items():
        params |= {"labels": labels, "batch_size": 2}
        found[f"{name}/images"] = transform.transform(images, params).numpy().transpose(0, 2, 3, 1)
        found[f"{name}/labels"] = transform.transform(labels, params).numpy()
    found["cutmix/box"] = np.array(box)


def main():
    found = {f"picture/{name}": image for name, image in pictures().items()}
    for write in (automatic, colours, erasing, mixing):
        write(found)
    np.savez_compressed(Path(__file__).with_name("augment.npz"), **found)


if __name__ == "__main__":
    main()
