"""The ResNet family on ImageNet, by torchvision's recipes V1 and V2.

    morphism prepare tfds:imagenet2012 --manual_dir DIR
    python train.py --config experiments/imagenet_resnet.py:50 --workdir runs/r50
    python train.py --config experiments/imagenet_resnet.py:50,recipe=v2 --workdir runs/r50_v2
    python train.py --config experiments/imagenet_resnet.py:50 --config.data.source=folder:/data/imagenet --workdir ...
    python eval.py --config experiments/imagenet_resnet.py:50 --weights torchvision:resnet50/IMAGENET1K_V2

Networks: 18, 34, 50, 101, 152, wide50_2, wide101_2, resnext50 (32x4d), resnext101 (32x8d), resnext101_64x4d. After a
comma: recipe=v1 or v2, and stride_in_1x1 for weights of the original network (MSRA, Caffe, Keras), whose bottlenecks
have their stride there; the same as --config.model.options.stride_in_1x1=True.

v1: 90 epochs (ResNeXt 100), batches of 256, SGD with momentum 0.9, learning rate 0.1 divided by 10 every 30 epochs,
weight decay 1e-4. The learning rate is proportional to the batch; from 1,024 on, use --config.schedule.warmup=5ep
(Goyal et al. 2017).
v2 (pytorch/vision#3995, #5201): 600 epochs, batches of 1024, learning rate 0.5 with a cosine after 5 epochs of warm-up
from 0.005, crops of 176 pixels, trivial augmentation, erasing with probability 0.1, mixup 0.2 and cutmix 1.0, label
smoothing 0.1, weight decay 2e-5 except on norms, each image four times per batch, moving averages every 32 steps;
evaluated at 224 of 232.

Published top-1 (torchvision IMAGENET1K_V1, V2): 18: 69.758; 34: 73.314; 50: 76.130, 80.858; 101: 77.374, 81.886; 152:
78.312, 82.284; wide50_2: 78.468, 81.602; wide101_2: 78.848, 82.510; resnext50: 77.618, 81.198; resnext101: 79.312,
82.834; resnext101_64x4d: 83.246 (V2's recipe).
Not trained here. Estimate: an A100 trains 2,470 images per second through ResNet-50 in mixed precision, eight 16,621
(NVIDIA's figures), so the 115 M images of V1 take 13 and 1.9 hours, and the 769 M of V2, at 0.62 of the work each, 53
and 8. The others are in proportion to their multiply-accumulates, on one A100 for V1: 18: 6 hours; 34: 12; 101: 25;
152: 37; wide50_2: 36; wide101_2: 72; resnext50: 15; resnext101: 58.
"""

from ml_collections import ConfigDict

from morphism.experiments.base import get_base

NETWORKS = {
    **{depth: f"resnet{depth}" for depth in ("18", "34", "50", "101", "152")},
    "wide50_2": "wide_resnet50_2",
    "wide101_2": "wide_resnet101_2",
    "resnext50": "resnext50_32x4d",
    "resnext101": "resnext101_32x8d",
    "resnext101_64x4d": "resnext101_64x4d",
}


def get_config(variant: str = "50"):
    network, *more = variant.split(",")
    unknown = [word for word in more if word not in ("recipe=v1", "recipe=v2", "stride_in_1x1")]
    if network not in NETWORKS or unknown:
        raise ValueError(
            f"imagenet_resnet has no {(unknown or [network])[0]!r}; it has {', '.join(NETWORKS)}, and behind a comma "
            "recipe=v1, recipe=v2, stride_in_1x1"
        )
    config = get_base("classification")
    config.model.name = NETWORKS[network]
    if network not in ("18", "34"):
        config.model.options = ConfigDict(dict(stride_in_1x1="stride_in_1x1" in more, output_stride=32))
    config.data.source = "tfds:imagenet2012"
    config.data.workers = 8
    if "recipe=v2" in more:
        _recipe_v2(config)
    else:
        _recipe_v1(config)
        config.duration = "100ep" if network.startswith("resnext") else "90ep"
    return config


def _recipe_v1(config: ConfigDict) -> None:
    config.batch_size = 256
    config.optimizer.update(name="momentum", learning_rate=0.1, reference_batch=256, weight_decay=1e-4)
    config.schedule.update(name="step", boundaries=("30ep", "60ep", "90ep"), factor=0.1)


def _recipe_v2(config: ConfigDict) -> None:
    config.batch_size = 1024
    config.duration = "600ep"
    config.data.update(image_size=176, eval_size=224, resize_size=232, repeats=4)
    config.augment.update(auto="trivialaugment", erase_probability=0.1, mixup_alpha=0.2, cutmix_alpha=1.0)
    config.loss.label_smoothing = 0.1
    config.optimizer.update(
        name="momentum", learning_rate=0.5, reference_batch=1024, weight_decay=2e-5, decay="not_norms"
    )
    config.schedule.update(name="cosine", warmup="5ep", warmup_factor=0.01)
    # torchvision rescales its 0.99998: 1 - (1 - 0.99998) * batch * every / epochs = 1 - 2e-5 * 1024 * 32 / 600.
    config.ema.update(decay=1 - 2e-5 * 1024 * 32 / 600, every="32")
