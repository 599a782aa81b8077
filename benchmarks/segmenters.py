"""Segmenters: the forward pass, one training step, and the evaluation of logits.

    python benchmarks/segmenters.py deeplabv3_resnet50 520x520 [--work forward train evaluate] [--batch 2 4]
    python benchmarks/segmenters.py unet 512x512
    python benchmarks/segmenters.py --work evaluate [--masks 1024x2048] [--classes 19 21]

forward: from normalised images to the logits of evaluation, at the images' size.
train: the step of training/step.py, from uint8 images and masks to new parameters.
evaluate: tasks/segmentation.py on one image, whose logits have half its mask's height and width: resizing them to the
mask's size; the highest class; `predict`, both at once as in evaluation; and on the host the confusion matrix and
boundary F1. Per million pixels of the mask.

If torch is installed (it is not a dependency), it takes turns. For the networks: torchvision's DeepLabV3 with its
auxiliary head, and a U-Net like milesial/Pytorch-UNet's, with cross-entropy, backward pass and SGD with momentum, as
our step has here. For evaluation: torch's interpolate and argmax, and NumPy's bincount. 21 classes, random images and
masks. torch does not train DeepLabV3 on a batch of 1.

Each contender has its own process, and so its own peak memory; within a round all take turns. Medians over rounds.
`compile`: seconds until the first call has ended. On a shared machine only ratios count.
"""

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable

import numpy as np
import turns

CLASSES, PATCH = 21, 16
EXPERIMENTS = {
    "deeplabv3_resnet50": "coco_deeplabv3",
    "unet": "camvid_unet",
}  # model -> the experiment that is measured
RATE, MOMENTUM, DECAY, AUX = 0.01, 0.9, 1e-4, 0.5
STEPS = ("resize", "argmax", "predict", "confusion", "boundary_f1")


def masks(batch: int, height: int, width: int, classes: int, seed: int) -> np.ndarray:
    """Masks of patches with one class each; an eighth of the patches is ignored."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (batch, -(-height // PATCH), -(-width // PATCH))).astype(np.uint8)
    coarse[rng.random(coarse.shape) < 1 / 8] = 255
    return coarse.repeat(PATCH, axis=1).repeat(PATCH, axis=2)[:, :height, :width]


def drawn(batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    return turns.images(batch, height, width) | {"segmentation": masks(batch, height, width, CLASSES, seed=1)}


def train_step(name: str, batch: dict[str, np.ndarray], dtype: str = "float32", calls: int = 1) -> turns.TrainStep:
    config, model, task = built(name, dtype)
    return turns.TrainStep(config, task, model, CLASSES, batch, calls)


def built(name: str, dtype: str):
    from morphism import models, tasks
    from morphism.runtime.mesh import AXIS

    config = importlib.import_module(f"morphism.experiments.{EXPERIMENTS[name]}").get_config()
    config.optimizer.update(name="momentum", learning_rate=RATE, momentum=MOMENTUM, weight_decay=DECAY, clip_norm=0.0)
    config.optimizer.update(decay="all", lr_multipliers=())
    config.augment.photometric = False
    if name == "unet":
        config.model.options.width = 64
    config.model.dtype = dtype
    return config, models.create(config.model, CLASSES, AXIS), tasks.of(config)


def morphism(name: str, work: str, batch: dict[str, np.ndarray]) -> turns.Run:
    import jax

    from morphism import models
    from morphism.runtime.mesh import compiler_options

    if work == "train":
        return train_step(name, batch)
    config, model, task = built(name, "float32")
    images = jax.device_put(task.normalise(batch, config.augment))
    variables = jax.jit(
        lambda: models.init(model, jax.random.key(0), batch["image"].shape[1:3]),
        compiler_options=compiler_options(once=True),
    )()
    forward = jax.jit(
        lambda variables, images: model.apply(variables, images, train=False)["out"],
        compiler_options=compiler_options(),
    )
    return lambda: jax.block_until_ready(forward(variables, images))


def unet_blocks():
    """DoubleConv, Down and Up of milesial/Pytorch-UNet."""
    import torch
    from torch import nn

    class DoubleConv(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            parts = []
            for channels in (inputs, outputs):
                convolution = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
                parts += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            self.double_conv = nn.Sequential(*parts)

        def forward(self, x):
            return self.double_conv(x)

    class Down(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inputs, outputs))

        def forward(self, x):
            return self.maxpool_conv(x)

    class Up(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
            self.conv = DoubleConv(inputs, outputs)

        def forward(self, x, skip):
            x = self.up(x)
            dy, dx = (a - b for a, b in zip(skip.shape[2:], x.shape[2:], strict=True))
            x = nn.functional.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            return self.conv(torch.cat([skip, x], 1))

    return DoubleConv, Down, Up


def torch_unet():
    from torch import nn

    DoubleConv, Down, Up = unet_blocks()

    class UNet(nn.Module):
        def __init__(self, width=64):
            super().__init__()
            self.inc = DoubleConv(3, width)
            for stage in range(1, 5):
                self.add_module(f"down{stage}", Down(width * 2 ** (stage - 1), width * 2**stage))
                self.add_module(f"up{stage}", Up(width * 2 ** (5 - stage), width * 2 ** (4 - stage)))
            self.outc = nn.Module()
            self.outc.conv = nn.Conv2d(width, CLASSES, 1)

        def forward(self, x):
            skips = [self.inc(x)]
            for stage in range(1, 5):
                skips.append(self.get_submodule(f"down{stage}")(skips[-1]))
            x = skips.pop()
            for stage in range(1, 5):
                x = self.get_submodule(f"up{stage}")(x, skips.pop())
            return {"out": self.outc.conv(x)}

    return UNet()


def torch_deeplabv3():
    with contextlib.suppress(ImportError):
        import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators if they do not load
    from torchvision.models import segmentation

    return segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)


def torch(name: str, work: str, batch: dict[str, np.ndarray]) -> turns.Run:
    """Channels last, as torch recommends for convolutions, on all available cores."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = torch_unet() if name == "unet" else torch_deeplabv3()
    model = model.to(memory_format=torch.channels_last).train(work == "train")
    x = torch.from_numpy(batch["image"].astype(np.float32) / 255 - 0.5).permute(0, 3, 1, 2)
    x = x.contiguous(memory_format=torch.channels_last)
    target = torch.from_numpy(batch["segmentation"]).long()
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY)

    def run() -> None:
        if work == "forward":
            with torch.inference_mode():
                model(x)
            return
        optimizer.zero_grad(set_to_none=True)
        losses = {
            key: torch.nn.functional.cross_entropy(logits, target, ignore_index=255) for key, logits in model(x).items()
        }
        (losses["out"] + AUX * losses["aux"] if "aux" in losses else losses["out"]).backward()
        optimizer.step()

    return run


def judged(classes: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits at half a mask's height and width and at its own, [1,h,w,K]; the predicted classes; the true mask."""
    true, found = (masks(1, height, width, classes, seed) for seed in (1, 2))
    found = np.where(found == 255, true % classes, found)
    noise = np.random.default_rng(0).standard_normal((1, height, width, classes), np.float32)
    whole = noise + 8 * (found[..., None] == np.arange(classes))
    return np.ascontiguousarray(whole[:, ::2, ::2]), whole, found, true


def morphism_evaluates(step: str, classes: int, height: int, width: int) -> turns.Run:
    import jax
    import jax.numpy as jnp

    from morphism import tasks
    from morphism.ops.resize import resize_parts
    from morphism.ops.segmentation import confusion
    from morphism.tasks import boundaries

    small, whole, found, true = judged(classes, height, width)
    if step == "boundary_f1":
        return lambda: boundaries.f1(found[0], true[0], classes)
    size, to = np.int32([small.shape[1:3]]), np.int32([[height, width]])

    def predict(logits, true):
        batch = {"segmentation": true, "size": size, "original_size": to, "id": np.zeros(1, np.int32)}
        return tasks.get("segmentation").predict(None, {"out": logits}, batch)

    call, *arrays = {
        "resize": (lambda logits: resize_parts(logits, size, to, height, width), small),
        "argmax": (lambda logits: jnp.argmax(logits, axis=-1), whole),
        "predict": (predict, small, true),
        "confusion": (lambda found, true: confusion(found, true, classes), found, true),
    }[step]
    call, arrays = jax.jit(call), jax.device_put(arrays)
    return lambda: jax.block_until_ready(call(*arrays))


def torch_evaluates(step: str, classes: int, height: int, width: int) -> turns.Run:
    small, whole, found, true = judged(classes, height, width)

    def confusion(found: np.ndarray) -> np.ndarray:
        counted = true != 255
        pairs = classes * true[counted].astype(np.int64) + found[counted]
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    if step == "confusion":
        return lambda: confusion(found)
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    small, whole = (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in (small, whole))

    def resized():
        return torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)

    return {
        "resize": resized,
        "argmax": lambda: whole.argmax(1),
        "predict": lambda: resized().argmax(1),
    }[step]


NETWORKS: dict[str, Callable] = {"morphism": morphism, "torch": torch}
EVALUATES: dict[str, Callable] = {"morphism": morphism_evaluates, "torch": torch_evaluates}


def contenders(work: str) -> list[str]:
    """This project, and torch if it is installed; torch has no boundary F1."""
    return ["morphism", *(["torch"] if work != "boundary_f1" and importlib.util.find_spec("torch") else [])]


def evaluation(args) -> list[turns.Row]:
    """Measures and prints the steps of evaluation for each number of classes."""
    height, width = args.masks
    print(f"evaluation of a mask of {height}x{width}, per million pixels, medians of {args.rounds}")
    print(f"{'step':12}{'classes':>8}  {'who':14}{'ms':>8}{'CPU ms':>8}{'compile s':>11}{'peak MB':>9}")
    results = []
    for step in STEPS:
        for classes in args.classes:
            flags = ["--work", step, "--classes", str(classes), "--masks", f"{height}x{width}"]
            for name, row in turns.measure(contenders(step), flags, args.rounds).items():
                wall, cpu = (1000 * row[key] / (height * width / 1e6) for key in ("wall", "cpu"))
                print(
                    f"{step:12}{classes:8}  {name:14}{wall:8.1f}{cpu:8.1f}{row['compile']:11.1f}{row['peak_mb']:9.0f}",
                    flush=True,
                )
                per_megapixel = {"ms_per_megapixel": wall, "cpu_ms_per_megapixel": cpu}
                results.append({"work": step, "classes": classes, "who": name, **row, **per_megapixel})
    return results


def main() -> None:
    works = ("forward", "train", "evaluate")
    parser = turns.make_parser(__doc__, EXPERIMENTS, "520x520", works, (2, 4), NETWORKS)
    parser.add_argument("--masks", type=turns.sides, default="1024x2048", help="height x width, for evaluate")
    parser.add_argument("--classes", nargs="+", type=int, default=(19, 21), help="for evaluate")
    args = parser.parse_args()
    if args.serve:
        work = args.work[0]
        if work in STEPS:
            return turns.serve(lambda: EVALUATES[args.serve](work, args.classes[0], *args.masks))
        return turns.serve(lambda: NETWORKS[args.serve](args.model, work, drawn(args.batch[0], *args.size)))

    results, networks = [], [work for work in args.work if work != "evaluate"]
    if networks:
        print(f"{args.model}, {args.size[0]}x{args.size[1]}, {CLASSES} classes, medians of {args.rounds}")
        results += turns.table(args, networks, contenders)
    if "evaluate" in args.work:
        results += evaluation(args)
    turns.write(args, results)


if __name__ == "__main__":
    main()
