"""DeepLabV3+ with ResNet-50 or 101 on Cityscapes (Chen et al. 2018), by mmsegmentation's recipe.

    morphism prepare tfds:cityscapes/semantic_segmentation --manual_dir DIR
    python train.py --config experiments/cityscapes_deeplabv3plus.py:50 --workdir runs/deeplabv3plus

Everything but the network is as in `cityscapes_pspnet`.
Published: mIoU 79.61 and 80.21 (ResNet-50, 101), 81.01 and 81.82 with scales and flips (mmsegmentation, 40k).
Not trained here: 368 GMAC forward, 3 hours on one A100 by the same estimate.
"""

from morphism.experiments.cityscapes_pspnet import cityscapes


def get_config(variant: str = "50"):
    if variant not in ("50", "101"):
        raise ValueError(f"cityscapes_deeplabv3plus has no variant {variant!r}; it has 50, 101")
    return cityscapes(f"deeplabv3plus_resnet{variant}", f"torchvision:resnet{variant}/IMAGENET1K_V1")
