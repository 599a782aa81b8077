"""Faster R-CNN on BCCD, 292 photographs of blood cells, at half size.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python train.py --config experiments/bccd_faster_rcnn.py --workdir runs/bccd_faster_rcnn \\
        --config.data.source=voc:BCCD_Dataset/BCCD
    python eval.py --workdir runs/bccd_faster_rcnn --draw

The network of `coco_faster_rcnn` with anchors of half the size, a pyramid and a head of half the width, and a quarter
of the proposals and of the samples. It starts from ImageNet weights, with stem, first stage and batch norms fixed. The
schedule is for 205 images: AdamW, 12 epochs with a cosine.
Published: no figure by the authors of the data; other detectors with trained weights reach AP50 0.80 and more.
Measured here: see docs/results.md.
"""

from ml_collections import ConfigDict

from morphism.experiments import coco_faster_rcnn


def get_config():
    config = coco_faster_rcnn.get_config()
    config.batch_size = 8
    config.duration = "12ep"
    config.eval_every = config.checkpoint_every = "4ep"
    config.log_every = "10"
    config.model.options = ConfigDict(
        dict(
            stride_in_1x1=False,
            anchor_size=16,
            channels=128,
            head_width=512,
            train_candidates=500,
            candidates=300,
            train_proposals=500,
            proposals=300,
            box_samples=128,
        )
    )
    config.data.update(source="voc:BCCD", image_size=240, max_size=320, max_boxes=40, workers=0)
    config.data.canvases = ((240, 320),)
    config.optimizer.update(name="adamw", learning_rate=2e-4, reference_batch=0, weight_decay=1e-2, clip_norm=10.0)
    config.schedule.update(name="cosine", warmup="1ep")
    return config
