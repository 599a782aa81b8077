"""Mask R-CNN on the nuclei of the 2018 Data Science Bowl: fluorescence, histology and brightfield microscopy.

    python train.py --config experiments/nuclei_mask_rcnn.py --workdir runs/nuclei_mask_rcnn \\
        --config.data.source=coco:/data/nuclei
    python eval.py --workdir runs/nuclei_mask_rcnn --draw

/data/nuclei holds train/, val/ and annotations/instances_{train,val}.json with one category: images of stage 1, with
corrected masks. They have 256x256 to 1040x1388 pixels and 1 to 375 nuclei, which are 5 to 126 pixels wide and mostly 10
to 30, so that images are resized to a shorter side of 512. Training sees random parts of 256x256 at 0.6 to 1.6 times
that size, which cost a quarter; evaluation sees whole images.

The network of torchvision's maskrcnn_resnet50_fpn with anchors of 12, 24, ..., 192 pixels, a pyramid and a box head of
half the width, a mask head of a quarter, and room for 400 nuclei per image. It starts from ImageNet weights, with stem,
first stage and batch norms fixed. AdamW, 8 epochs with a cosine.
Published, TP / (TP + FP + FN) at IoU 0.5 on the fluorescence part alone: Mask R-CNN 0.832, StarDist 0.864 (Schmidt et
al. 2018, table 1). COCO's AP counts the best 100 nuclei of an image alone.
"""

from ml_collections import ConfigDict

from morphism.experiments import coco_mask_rcnn


def get_config():
    config = coco_mask_rcnn.get_config()
    config.batch_size = 8
    config.eval_batch_size = 2
    config.duration = "8ep"
    config.eval_every = config.checkpoint_every = "4ep"
    config.log_every = "10"
    config.model.options = ConfigDict(
        dict(
            stride_in_1x1=False,
            anchor_size=12,
            channels=128,
            head_width=512,
            mask_width=64,
            train_candidates=1000,
            candidates=2000,
            train_proposals=500,
            proposals=1000,
            box_samples=128,
            detections=400,
        )
    )
    config.data.update(source="coco:nuclei", image_size=512, max_size=1088, max_boxes=400, mask_size=56, workers=0)
    config.data.canvases = ((512, 512), (512, 704), (512, 1088))
    with config.unlocked():  # random parts, as segmentation is trained
        config.data.update(window_rule="crop", crop=(256, 256), scale=(0.6, 1.6), exact="auto")
        config.data.update(cat_max_ratio=1.0, antialias=False)
        config.augment.elastic = 0.0
    config.optimizer.update(name="adamw", learning_rate=2e-4, reference_batch=0, weight_decay=1e-2, clip_norm=10.0)
    config.schedule.update(name="cosine", warmup="50", warmup_factor=0.0)
    config.metrics.medical = True
    return config
