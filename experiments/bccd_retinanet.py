"""RetinaNet on BCCD, 292 photographs of blood cells, at half size.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python train.py --config experiments/bccd_retinanet.py --workdir runs/bccd_retinanet \\
        --config.data.source=voc:BCCD_Dataset/BCCD
    python eval.py --workdir runs/bccd_retinanet --draw

The network of `coco_retinanet` with anchors of half the size. It starts from ImageNet weights, with stem, first stage
and batch norms fixed. The schedule is for 205 images: AdamW, 20 epochs with a cosine.
Published: no figure by the authors of the data; other detectors with trained weights reach AP50 0.80 and more.
Measured here: see docs/results.md.
"""

from ml_collections import ConfigDict

from morphism.experiments import coco_retinanet


def get_config():
    config = coco_retinanet.get_config()
    config.batch_size = 8
    config.duration = "20ep"
    config.eval_every = config.checkpoint_every = "4ep"
    config.log_every = "10"
    config.model.options = ConfigDict(dict(stride_in_1x1=False, anchor_size=16, detections=100))
    config.data.update(source="voc:BCCD", image_size=240, max_size=320, max_boxes=40, workers=0)
    config.data.canvases = ((240, 320),)
    config.optimizer.update(name="adamw", learning_rate=3e-4, reference_batch=0, weight_decay=1e-2, clip_norm=10.0)
    config.schedule.update(name="cosine", warmup="1ep")
    return config
