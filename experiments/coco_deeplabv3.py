"""DeepLabV3 with ResNet-50 or 101 on COCO images with VOC's classes, by torchvision's recipe.

Chen et al. 2017, "Rethinking atrous convolution for semantic image segmentation".

    python train.py --config experiments/coco_deeplabv3.py:resnet50 --workdir runs/deeplabv3 \\
        --config.data.source=coco_voc:/data/coco
    python eval.py --config experiments/coco_deeplabv3.py:resnet50 \\
        --weights torchvision:deeplabv3_resnet50/COCO_WITH_VOC_LABELS_V1 --config.data.source=coco_voc:/data/coco

/data/coco holds train2017/, val2017/ and annotations/instances_{train,val}2017.json. 30 epochs of batches of 32, SGD
with momentum 0.9 and weight decay 1e-4, learning rate 0.02 with a polynomial of power 0.9, ten times that for the
auxiliary head, whose loss counts half; batch norm over all devices; the shorter side is 520 times 0.5 to 2, crops are
480x480.
Published: mIoU 66.4 and 67.4, pixel accuracy 92.4 and 92.4 (ResNet-50, 101), on COCO val2017 with VOC's classes.
Not trained here. Estimate: 152 GMAC per crop forward are 37 times those of a ResNet-50 at 224, with which an A100
trains 2,470 images per second in mixed precision, so 30 x 118,287 images, some of them without such classes, take at
most 15 hours on one A100, or 2 on eight, at the same utilisation.
"""

from morphism.experiments.base import get_base


def get_config(variant: str = "resnet50"):
    if variant not in ("resnet50", "resnet101"):
        raise ValueError(f"coco_deeplabv3 has no variant {variant!r}; it has resnet50, resnet101")
    config = get_base("segmentation")
    config.batch_size = 32
    config.duration = "30ep"
    config.model.name = f"deeplabv3_{variant}"
    config.model.sync_bn = True
    config.init_from = f"torchvision:{variant}/IMAGENET1K_V1"
    config.init_rename = ("^ -> backbone.",)
    config.init_allow_missing = (r"(aux_)?classifier\..*",)
    config.init_allow_unexpected = (r"backbone\.fc\..*",)
    config.data.update(source="coco_voc:coco", workers=8, image_size=520, antialias=True, scale=(0.5, 2.0))
    config.data.update(crop=(480, 480), canvases=((520, 704), (704, 520), (520, 1024), (1024, 520), (2048, 2048)))
    config.augment.fill = 0  # torchvision pads before it normalises
    config.optimizer.update(name="momentum", learning_rate=0.02, reference_batch=32, weight_decay=1e-4)
    config.optimizer.lr_multipliers = (("aux_classifier.*", 10.0),)
    config.schedule.update(name="polynomial", power=0.9)
    config.loss.aux_weight = 0.5
    return config
