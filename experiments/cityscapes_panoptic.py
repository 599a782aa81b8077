"""Panoptic FPN with ResNet-50 on Cityscapes (Kirillov et al. 2019, section 5).

    python train.py --config experiments/cityscapes_panoptic.py --workdir runs/cityscapes_panoptic \\
        --config.data.source=cityscapes:/data/cityscapes
    python eval.py --workdir runs/cityscapes_panoptic --draw

/data/cityscapes holds leftImg8bit/ and gtFine/ as they are unpacked. The network and weights of `coco_panoptic`; its
semantic head learns all 19 classes, those of things included, so that mIoU is over all of them too, and only stuff is
fused. 65,000 steps of 32 crops of 512x1024 from images scaled by 0.5 to 2, with flips and distorted colours; SGD with
momentum 0.9 and weight decay 1e-4, learning rate 0.01 with drops after 40,000 and 55,000. Whole images are evaluated.
Published for another network on the same backbone: Panoptic-DeepLab PQ 58.6, mIoU 75.9, mask AP 29.8 (detectron2).
Not trained here. Estimate: a crop has 10 times the pixels of a 224x224; with detectron2's cost of Panoptic FPN relative
to its size, 2.08 million crops take about 30 hours on one A100, or 4 on eight.
"""

from morphism.experiments.coco_panoptic import panoptic_fpn


def get_config():
    config = panoptic_fpn()
    config.batch_size = 32
    config.eval_batch_size = 1
    config.duration = "65k"
    config.eval_every = config.checkpoint_every = "5k"
    config.data.update(source="cityscapes:cityscapes", image_size=1024, max_boxes=200, workers=8)
    config.data.targets = ("segmentation", "boxes", "masks")  # the first leads: images are augmented by its rules
    config.data.update(window_rule="crop", resize="none", crop=(512, 1024), scale=(0.5, 2.0))
    config.augment.photometric = True
    config.optimizer.update(name="momentum", learning_rate=0.01, reference_batch=32, weight_decay=1e-4)
    config.schedule.update(name="step", boundaries=("40k", "55k"), warmup="1k", warmup_factor=0.001)
    return config
