"""U-Net on the 30 images of neuronal structures of ISBI 2012, as Ronneberger, Fischer & Brox 2015 trained it.

    python train.py --config experiments/isbi_unet.py --workdir runs/isbi_unet --config.data.source=masks:isbi
    python eval.py --workdir runs/isbi_unet --draw

isbi/images/ holds the 30 slices of train-volume.tif as 0.png to 29.png, isbi/masks/ those of train-labels.tif
(membranes 0, cells 255), isbi/classes.txt the lines "membrane" and "cell". A fifth is held out, since the labels of the
challenge's own 30 slices are not public. The paper's network, without padding and batch norm, with batches of one
image, momentum 0.99, elastic deformations of std 10 on a grid of 3 x 3, weights up to 11 for pixels between cells, and
dropout at the end of the contracting path. Flips and random crops replace the paper's rotations and shifts; the paper
does not give its learning rate.
Published: warping error 0.000353, Rand error 0.0382, pixel error 0.0611 on the challenge's test slices (the paper,
table 1). Measured here are IoU, Dice and boundary F1 of the held-out slices.
Not trained here: the data requires registration. The paper trained for 10 hours on one GPU of 2015.
"""

from ml_collections import ConfigDict

from morphism.experiments.base import get_base


def get_config():
    config = get_base("segmentation")
    config.batch_size = 1
    config.duration = "20k"
    config.eval_every = config.checkpoint_every = "1k"
    config.model.name = "unet"
    config.model.options = ConfigDict(dict(width=64, valid=True, batch_norm=False, dropout=0.5))
    config.data.update(source="masks:isbi", val_fraction=0.2, image_size=512, resize="none", crop=(480, 480))
    config.data.update(border_weight=10.0, border_sigma=5.0)
    config.augment.update(mean=(0.5,) * 3, std=(0.5,) * 3, elastic=10.0)
    config.optimizer.update(name="momentum", learning_rate=1e-3, momentum=0.99)
    config.schedule.name = "constant"
    return config
