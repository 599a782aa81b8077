"""torchvision's public checkpoints: their files, results and image preparation. Each file is fetched once and kept.

    python eval.py --config experiments/imagenet_resnet.py:50 --weights torchvision:resnet50/IMAGENET1K_V2 ...

Names, files and figures are those of torchvision 0.28 (torchvision/models/*.py). Files are fetched from
https://download.pytorch.org/models, or MORPHISM_WEIGHTS_URL, into ~/.cache/morphism/weights (XDG_CACHE_HOME).
"""

import fcntl
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from morphism.errors import UserError, did_you_mean
from morphism.runtime.paths import cache_folder
from morphism.weights.files import sha256

PREFIX = "torchvision:"
BASE = "https://download.pytorch.org/models"
TIMEOUT_S = 60  # between two bytes
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Public(NamedTuple):
    """A classifier's checkpoint. The eight digits in its file's name are the first of its SHA-256.

    Images: the shorter side is resized to resize_size, bilinear with antialiasing; the central square of crop_size is
    cut out; values in 0..1 minus mean, divided by std.
    top1, top5: in percent on ImageNet's validation split; None if the classifier is not trained.
    untrained: prefix of the tensors that are not trained; "" if all are.
    """

    file: str
    resize_size: int
    top1: float | None
    top5: float | None
    crop_size: int = 224
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    untrained: str = ""


CHECKPOINTS = {  # our name of the architecture / torchvision's name of the weights
    "alexnet/IMAGENET1K_V1": Public("alexnet-owt-7be5be79.pth", 256, 56.522, 79.066),
    "vgg11/IMAGENET1K_V1": Public("vgg11-8a719046.pth", 256, 69.02, 88.628),
    "vgg11_bn/IMAGENET1K_V1": Public("vgg11_bn-6002323d.pth", 256, 70.37, 89.81),
    "vgg13/IMAGENET1K_V1": Public("vgg13-19584684.pth", 256, 69.928, 89.246),
    "vgg13_bn/IMAGENET1K_V1": Public("vgg13_bn-abd245e5.pth", 256, 71.586, 90.374),
    "vgg16/IMAGENET1K_V1": Public("vgg16-397923af.pth", 256, 71.592, 90.382),
    "vgg16/IMAGENET1K_FEATURES": Public(
        "vgg16_features-amdegroot-88682ab5.pth",
        256,
        None,
        None,
        mean=(0.48235, 0.45882, 0.40784),
        std=(1 / 255,) * 3,
        untrained="classifier.",
    ),
    "vgg16_bn/IMAGENET1K_V1": Public("vgg16_bn-6c64b313.pth", 256, 73.36, 91.516),
    "vgg19/IMAGENET1K_V1": Public("vgg19-dcbb9e9d.pth", 256, 72.376, 90.876),
    "vgg19_bn/IMAGENET1K_V1": Public("vgg19_bn-c79401a0.pth", 256, 74.218, 91.842),
    "resnet18/IMAGENET1K_V1": Public("resnet18-f37072fd.pth", 256, 69.758, 89.078),
    "resnet34/IMAGENET1K_V1": Public("resnet34-b627a593.pth", 256, 73.314, 91.42),
    "resnet50/IMAGENET1K_V1": Public("resnet50-0676ba61.pth", 256, 76.13, 92.862),
    "resnet50/IMAGENET1K_V2": Public("resnet50-11ad3fa6.pth", 232, 80.858, 95.434),
    "resnet101/IMAGENET1K_V1": Public("resnet101-63fe2227.pth", 256, 77.374, 93.546),
    "resnet101/IMAGENET1K_V2": Public("resnet101-cd907fc2.pth", 232, 81.886, 95.78),
    "resnet152/IMAGENET1K_V1": Public("resnet152-394f9c45.pth", 256, 78.312, 94.046),
    "resnet152/IMAGENET1K_V2": Public("resnet152-f82ba261.pth", 232, 82.284, 96.002),
    "resnext50_32x4d/IMAGENET1K_V1": Public("resnext50_32x4d-7cdf4587.pth", 256, 77.618, 93.698),
    "resnext50_32x4d/IMAGENET1K_V2": Public("resnext50_32x4d-1a0047aa.pth", 232, 81.198, 95.34),
    "resnext101_32x8d/IMAGENET1K_V1": Public("resnext101_32x8d-8ba56ff5.pth", 256, 79.312, 94.526),
    "resnext101_32x8d/IMAGENET1K_V2": Public("resnext101_32x8d-110c445d.pth", 232, 82.834, 96.228),
    "resnext101_64x4d/IMAGENET1K_V1": Public("resnext101_64x4d-173b62eb.pth", 232, 83.246, 96.454),
    "wide_resnet50_2/IMAGENET1K_V1": Public("wide_resnet50_2-95faca4d.pth", 256, 78.468, 94.086),
    "wide_resnet50_2/IMAGENET1K_V2": Public("wide_resnet50_2-9ba9bcbe.pth", 232, 81.602, 95.758),
    "wide_resnet101_2/IMAGENET1K_V1": Public("wide_resnet101_2-32ee1156.pth", 256, 78.848, 94.284),
    "wide_resnet101_2/IMAGENET1K_V2": Public("wide_resnet101_2-d733dc28.pth", 232, 82.51, 96.02),
}


class PublicDetector(NamedTuple):
    """A detector's checkpoint for COCO's 90 ids (data/sources/coco_by_id.py); digits and `untrained` as in Public.

    Images: as the experiment prepares them, minus mean, divided by std.
    ap: box AP in percent on COCO val2017; mask_ap: mask AP, if the detector has masks.
    options: of the model, as (name, value) pairs.
    """

    file: str
    ap: float
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    options: tuple[tuple[str, float], ...] = ()
    untrained: str = ""
    mask_ap: float | None = None


# Checkpoints from before torchvision 0.13 have "inner_blocks.0.weight" for "inner_blocks.0.0.weight", likewise in the
# RPN; the mask head's are "mask_fcn1" to 4; in the other heads they count the activations between the convolutions too.
OLD_NAMES = {
    r"^(rpn\.head\.conv)\.(weight|bias)$": r"\1.0.0.\2",
    r"^(backbone\.fpn\.(inner|layer)_blocks\.\d)\.(weight|bias)$": r"\1.0.\3",
    **{rf"_head\.conv\.{2 * index}\.(weight|bias)$": rf"_head.conv.{index}.0.\1" for index in range(4)},
    **{rf"_head\.mask_fcn{index + 1}\.(weight|bias)$": rf"_head.{index}.0.\1" for index in range(4)},
}
DETECTORS = {
    "fasterrcnn_resnet50_fpn/COCO_V1": PublicDetector(
        "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 37.0, options=(("bn_epsilon", 0.0),)
    ),
    "fasterrcnn_resnet50_fpn_v2/COCO_V1": PublicDetector("fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", 46.7),
    "maskrcnn_resnet50_fpn/COCO_V1": PublicDetector(
        "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", 37.9, options=(("bn_epsilon", 0.0),), mask_ap=34.6
    ),
    "maskrcnn_resnet50_fpn_v2/COCO_V1": PublicDetector(
        "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", 47.4, mask_ap=41.8
    ),
    "retinanet_resnet50_fpn/COCO_V1": PublicDetector(
        "retinanet_resnet50_fpn_coco-eeacb38b.pth", 36.4, options=(("bn_epsilon", 0.0),)
    ),
    "retinanet_resnet50_fpn_v2/COCO_V1": PublicDetector("retinanet_resnet50_fpn_v2_coco-5905b1c5.pth", 41.5),
    "ssd300_vgg16/COCO_V1": PublicDetector(
        "ssd300_vgg16_coco-b556d3b4.pth", 25.1, mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3
    ),
}


class PublicSegmenter(NamedTuple):
    """A segmenter's checkpoint for the 21 classes of VOC; digits and `untrained` as in Public.

    Images: the shorter side is resized to resize_size, bilinear with antialiasing; values in 0..1 minus mean, divided
    by std.
    miou, pixel_accuracy: in percent on COCO val2017 with the labels of VOC's classes.
    """

    file: str
    miou: float
    pixel_accuracy: float
    resize_size: int = 520
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    untrained: str = ""


SEGMENTERS = {
    "fcn_resnet50/COCO_WITH_VOC_LABELS_V1": PublicSegmenter("fcn_resnet50_coco-1167a1af.pth", 60.5, 91.4),
    "fcn_resnet101/COCO_WITH_VOC_LABELS_V1": PublicSegmenter("fcn_resnet101_coco-7ecb50ca.pth", 63.7, 91.9),
    "deeplabv3_resnet50/COCO_WITH_VOC_LABELS_V1": PublicSegmenter("deeplabv3_resnet50_coco-cd0a2569.pth", 66.4, 92.4),
    "deeplabv3_resnet101/COCO_WITH_VOC_LABELS_V1": PublicSegmenter("deeplabv3_resnet101_coco-586e9e4e.pth", 67.4, 92.4),
}


def current_name(name: str) -> str:
    """The name of a tensor since torchvision 0.13."""
    for pattern, replacement in OLD_NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


def find(reference: str) -> Public | PublicDetector | PublicSegmenter:
    """The checkpoint that "torchvision:<architecture>/<weights>" names. Raises UserError if there is none."""
    name = reference.removeprefix(PREFIX)
    known = CHECKPOINTS | DETECTORS | SEGMENTERS
    if name not in known:
        architecture = name.partition("/")[0] + "/"
        held = [each for each in known if each.startswith(architecture)] or list(known)
        raise UserError(
            f"{reference}: torchvision has no such weights; there are {', '.join(held[:4])}"
            f"{' ...' if len(held) > 4 else ''}{did_you_mean(name, known)}"
        )
    return known[name]


def fetch(reference: str, say: Callable[[str], None]) -> Path:
    """The verified file of a checkpoint, from the cache or the network; `say` gets a line before a download.

    An interrupted download continues where it ended; two processes at once wait for each other.
    Raises UserError if the server, the network or the disk refuses, and if the bytes are not torchvision's.
    """
    public = find(reference)
    try:
        folder = cache_folder("weights")
    except RuntimeError as error:
        raise UserError(
            f"{reference}: this user has no home folder; set XDG_CACHE_HOME to one for downloads"
        ) from error
    target, part = folder / public.file, folder / f"{public.file}.part"
    url = f"{os.environ.get('MORPHISM_WEIGHTS_URL', BASE).rstrip('/')}/{public.file}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{public.file}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                say(f"fetching {url}")
                _fetch(url, part)
                _check(part, url)
                part.replace(target)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: {error.code} {error.reason}; fetch it by hand into {target}") from error
    except urllib.error.URLError as error:
        raise UserError(f"{url}: not reached ({error.reason}); the same command tries again") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"{url}: interrupted ({error or type(error).__name__}); the same command goes on from there"
        ) from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); make room, or set XDG_CACHE_HOME") from error
    _check(target, url)
    return target


def _fetch(url: str, part: Path) -> None:
    """Appends to `part` what it lacks; starts again from the first byte if the server ignores the range."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing is left to fetch
            return
        raise
    with response, part.open("ab") as file:
        if have and getattr(response, "status", None) != 206:
            file.truncate(0)
        expected = response.headers["Content-Length"]
        received = 0
        while chunk := response.read(1 << 20):
            file.write(chunk)
            received += len(chunk)
    if expected is not None and received < int(expected):
        raise http.client.HTTPException(f"{received:,} of {int(expected):,} bytes came")


def _check(path: Path, url: str) -> None:
    """Raises UserError, and removes the file, if its SHA-256 does not begin with the digits of its name."""
    promised, found = re.search(r"-([0-9a-f]{8})\.pth", path.name)[1], sha256(path)
    if not found.startswith(promised):
        path.unlink()
        raise UserError(
            f"{url}: its SHA-256 begins {found[:8]}, not {promised}; removed from {path.parent}, and the same command "
            "fetches it again"
        )
