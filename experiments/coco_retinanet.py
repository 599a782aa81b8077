"""RetinaNet with ResNet-50 and FPN on COCO, as torchvision trains its first version.

Lin et al. 2017, "Focal loss for dense object detection".

    python train.py --config experiments/coco_retinanet.py --workdir runs/retinanet \\
        --config.data.source=coco:/data/coco
    python eval.py --workdir runs/retinanet --draw

/data/coco holds train2017/, val2017/ and annotations/instances_{train,val}2017.json; tfds:coco/2017 works too.
26 epochs of batches of 16, SGD with momentum 0.9 and weight decay 1e-4, learning rate 0.01 after 1,000 steps of
warm-up, divided by 10 after 16 and 22 epochs. The backbone starts from ImageNet weights, with stem, first stage and
batch norms fixed. Images are resized to 800 (at most 1,333) and put on one of four canvases; with `multiscale` the size
is drawn from 640 to 800.
Published: box AP 36.4 (torchvision RetinaNet_ResNet50_FPN COCO_V1).
Not trained here. Estimate: 151.5 GMAC forward are 37 times those of a ResNet-50 at 224, with which an A100 trains 2,470
images per second in mixed precision, so 26 x 117,266 images take 13 hours on one A100, or 2 on eight, at the same
utilisation.
"""

from morphism.experiments import coco_faster_rcnn


def get_config(variant: str = ""):
    if variant not in ("", "multiscale"):
        raise ValueError(f"coco_retinanet has no variant {variant!r}; it has 'multiscale'")
    config = coco_faster_rcnn.get_config()  # the same recipe but for the learning rate
    config.model.name = "retinanet_resnet50_fpn"
    config.init_allow_missing = (r"backbone\.fpn\..*", r"head\..*")
    config.optimizer.learning_rate = 0.01
    if variant == "multiscale":
        config.data.train_sizes = (640, 672, 704, 736, 768, 800)
    return config
