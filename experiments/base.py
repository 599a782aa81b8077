"""Every field of a configuration, with its default and its meaning. An experiment is this plus its differences.

Lengths of time are texts: "64k" or "500" are steps, "90ep" epochs of the training split.
"""

from ml_collections import ConfigDict


def get_base(task: str = "classification") -> ConfigDict:
    config = ConfigDict(
        dict(
            task=task,
            seed=0,  # of initialisation, shuffling, cropping and augmentation
            batch_size=128,  # examples a step, over all devices and processes
            eval_batch_size=0,  # the same in evaluation, rounded up to the devices; 0: batch_size
            accumulate=1,  # micro-batches that a step is split into, for its memory
            duration="10ep",  # of the whole training
            log_every="50",  # "0": only where it evaluates or saves
            eval_every="1ep",  # evaluates on data.val_split, and saves
            checkpoint_every="1ep",  # saves in between; "0": never saves
            keep=2,  # newest checkpoints kept, beside the best
            best="top1",  # the metric of the validation split whose highest value is "best"; "": the newest is
            init_from="",  # trained weights to begin with: a file, torchvision:<name>/<weights>, or a run's workdir
            init_rename=(),  # regular expressions "pattern -> replacement" for their names
            init_allow_missing="",  # regular expression of the names that they may lack, which then begin anew
            init_allow_unexpected="",  # and of those that are left aside
            model=dict(
                name="resnet50",  # one of models/*.py's MODELS
                dtype="float32",  # of the computation: float32 or bfloat16; parameters are float32
                remat=False,  # recompute activations in the backward pass: less memory, more time
                sync_bn=False,  # batch norm over all devices' examples; else each device's own
                frozen_bn=False,  # batch norm by its running statistics; neither they nor scale and shift are trained
                options=ConfigDict(convert_dict=False),  # further fields of the architecture
            ),
            data=dict(
                source="embedded",  # of data/sources: embedded, folder:<path>, tfds:<name>, coco:<path>, ...
                data_dir="",  # of TFDS; "": its default
                train_split="train",  # or a slice: "train[:6%]", "train[100:200]", in the source's own order
                val_split="val",
                val_fraction=0.0,  # > 0: cut "val" from the train split, each record by a hash of its name
                split_seed=0,  # of that hash
                repeats=1,  # > 1: repeated augmentation, each picture so often in a batch; see data/sampling.py
                balanced=False,  # draw each class equally often, however many pictures it has
                pixels="auto",  # of batches: uint8, or float32, which high-bit images need; auto: as train images do
                intensity=(),  # of high-bit images: (low, high), stored values that become black and white; (): found
                intensity_rule="bits",  # how: by bits, type or percentiles of train images; see data/intensity.py
                workers=0,  # processes that load; 0: threads of this one
                threads=2,  # a process
                strict=False,  # refuse odd pictures (data/image.py: Odd), which are otherwise set right, counted, told
                prefetch=4,  # batches loaded ahead, a process
                timeout=300,  # seconds without a batch after which the input counts as hung
            ),
            augment=dict(
                mean=(0.485, 0.456, 0.406),  # of pixels in 0..1, a channel (ImageNet's)
                std=(0.229, 0.224, 0.225),
                flip_probability=0.5,  # left-right
            ),
            optimizer=dict(
                name="momentum",  # sgd, momentum, nesterov, rmsprop, adagrad, adam, adamw, lars
                learning_rate=0.1,  # the peak, reached after warm-up
                reference_batch=0,  # > 0: learning_rate is for this batch and scales linearly with ours
                momentum=0.9,  # momentum, nesterov, rmsprop, lars
                rms_decay=0.99,  # rmsprop: torch's alpha
                beta1=0.9,  # adam, adamw
                beta2=0.999,
                epsilon=1e-8,  # rmsprop, adagrad, adam, adamw: beside the root, not inside
                trust_coefficient=0.001,  # lars
                weight_decay=0.0,  # in the gradient (L2) as torch has it; decoupled for adamw; within lars's ratio
                decay="all",  # what weight decay acts on: all, not_norms (scales and shifts spared), kernels
                clip_norm=0.0,  # > 0: the gradient's largest global norm
                freeze=(),  # parameters that stay as they are, by patterns of their paths: ("conv1.*", "layer1.*")
                lr_multipliers=(),  # (pattern, factor) pairs, the first that fits counts: (("fc.*", 10.0),)
            ),
            schedule=dict(
                name="cosine",  # constant, step, cosine, polynomial
                warmup="0",  # from warmup_factor to 1 of the learning rate
                warmup_method="linear",  # or "constant": warmup_factor until its end
                warmup_factor=0.0,
                warmup_power=1.0,  # 2: the warm-up rises by the square of its share instead (YOLOX)
                boundaries=("30ep", "60ep", "80ep"),  # step: where the rate is multiplied by factor
                factor=0.1,
                final_factor=0.0,  # cosine, polynomial: what is left at the end
                hold="0",  # cosine, polynomial: how long, at the end, the rate stays at that
                power=0.9,  # polynomial
            ),
            ema=dict(
                decay=0.0,  # > 0: keep, save and evaluate an exponential moving average
                every="1",  # how often it follows; through the warm-up it is a copy
                ramp="0",  # more: no copies, but the decay grows, by 1 - exp(-step / ramp) (YOLOX)
            ),
        )
    )
    config.best = BEST[task]
    config.eval_batch_size = EVAL_BATCH_SIZE[task]
    for group, fields in TASKS[task].items():
        config[group] = ConfigDict(dict(config.get(group, {})) | fields)
    return config.lock()


CLASSIFICATION = dict(
    data=dict(
        targets=("label",),  # what examples are learned from, of data/targets
        window_rule="square",  # by which windows are drawn: square, canvas or crop; see data/examples.py
        image_size=224,  # the network's input, square
        eval_size=0,  # the input's size in evaluation, where that is another than image_size
        resize_size=256,  # evaluation: the shorter side before the central crop
        train_crop="random_resized",  # or "center", the evaluation's
        crop_scale=(0.08, 1.0),  # random_resized: share of the area
        crop_ratio=(3 / 4, 4 / 3),  # random_resized: width / height
    ),
    augment=dict(
        crop_padding=0,  # > 0: pad by so many black pixels, crop at random
        auto="",  # "", randaugment or trivialaugment
        auto_operations=2,  # randaugment: how many, one after the other
        auto_magnitude=9,  # randaugment: 0 to 30
        brightness=0.0,  # jitter, in random order: a factor from 1 - this to 1 + this
        contrast=0.0,
        saturation=0.0,
        hue=0.0,  # jitter: a turn of at most this, 0.5 being half the circle
        lighting=0.0,  # std of the weights of ImageNet's colour components (AlexNet: 0.1)
        erase_probability=0.0,  # of a random rectangle
        mixup_alpha=0.0,  # > 0: mixup
        cutmix_alpha=0.0,  # > 0: cutmix; with both, one by chance for each pair
    ),
    loss=dict(
        name="cross_entropy",  # cross_entropy, bce (a sigmoid a class), focal
        label_smoothing=0.0,
        class_weights="",  # "balanced": n / (K n_k) of the train split; or a number a class: "1,0.5,2"
        bce_threshold=0.0,  # > 0: what of a mixed or smoothed label lies above becomes 1, the rest 0
        focal_alpha=0.25,  # the weight of positives, 1 - alpha of negatives; negative: both 1
        focal_gamma=2.0,
    ),
)
DETECTION = dict(
    data=dict(
        targets=("boxes",),
        window_rule="canvas",
        image_size=800,  # what resize makes the shorter side, or the sides
        resize="shorter",  # keeps the aspect, the longer side at most max_size; stretch: to the canvas; fit: into it
        max_size=1333,
        train_sizes=(),  # image_size drawn anew for each training example: (640, 672, 704, 736, 768, 800)
        canvases=(),  # (height, width) of batches, each image on the smallest that holds it; (): as images need them
        multi_scale=(),  # sides of square canvases, one drawn anew for every 10 training steps: (480, 512, ..., 800)
        max_boxes=100,  # boxes of a picture; more are an error, in a mosaic the last are left out
    ),
    augment=dict(
        zoom_out=0.0,  # SSD: probability of a picture made small on a mean-coloured ground
        iou_crop=False,  # SSD: a random part, of a random IoU or more with some box
        scale_jitter=(),  # (0.1, 2.0): large-scale jitter (Ghiasi et al. 2021), instead of resize
        photometric=False,  # SSD: brightness, contrast, saturation and hue
        fill=-1,  # the canvas around a picture: a grey of 0 to 255; -1: zero after normalising
        mosaic=0.0,  # YOLOX: probability of a picture made of four, turned, scaled and sheared (augment/mosaic.py)
        degrees=10.0,  # mosaic: the largest turn, either way
        translate=0.1,  # mosaic: the largest shift, as a share of the canvas
        scale=(0.1, 2.0),  # mosaic
        shear=2.0,  # mosaic: the largest, in degrees
        mixup=0.0,  # mosaic: probability of half of it being another picture
        mixup_scale=(0.5, 1.5),  # of that picture
        hsv=(0.0, 0.0, 0.0),  # YOLOX: largest shifts of hue, saturation and value, in OpenCV's units: (5, 30, 30)
        closing="0",  # how long, at the end, there is no mosaic, and YOLOX learns with L1 as well
    ),
)
SEGMENTATION = dict(
    data=dict(
        targets=("segmentation",),
        window_rule="crop",
        image_size=520,  # what resize makes the shorter side
        resize="shorter",  # keeps the aspect, the longer side at most max_size; none: pictures as they are
        max_size=2048,
        antialias=False,  # in resizing, as Pillow; without as torch and OpenCV
        scale=(1.0, 1.0),  # training: a random factor of the size, between the two
        crop=(480, 480),  # training: height and width of a random part, filled up with ignored pixels
        cat_max_ratio=1.0,  # training: crops of which one class has more of the pixels are drawn anew, up to ten times
        border_weight=0.0,  # > 0: U-Net's weight (10) of what lies between objects: all classes but the first
        border_sigma=5.0,  # and how far from both they reach, in pixels
        exact="auto",  # evaluation: each image at its own size, a program for each: auto (up to 8 sizes), always, never
        canvases=(),  # evaluation else: (height, width) of batches, the smallest that holds an image; (): one for all
        window=(),  # evaluation: (height, width) of windows that overlap by a third; (): the whole picture
        view_scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75),  # of eval.py --views scales
    ),
    augment=dict(
        photometric=False,  # mmsegmentation's brightness, contrast, saturation and hue
        fill=-1,  # training: the canvas around a picture: a grey of 0 to 255; -1: zero after normalising
        elastic=0.0,  # > 0: U-Net's deformation, by so many pixels (std) on a grid of 3 x 3
    ),
    loss=dict(
        name="cross_entropy",  # cross_entropy, focal, ohem (the hard pixels), lovasz, dice
        aux_weight=0.5,  # of the auxiliary head's loss, where the model has one
        class_weights="",  # "median_frequency" of the train split; or a number a class: "1,0.5,2"
        focal_gamma=2.0,
        ohem_threshold=0.7,  # pixels whose class has a probability below are hard
        ohem_pixels=100_000,  # at least so many of a device's are
        dice_weight=0.0,  # > 0: so much of the Dice loss is added
    ),
)
TASKS = {"classification": CLASSIFICATION, "detection": DETECTION, "segmentation": SEGMENTATION}
EVAL_BATCH_SIZE = {"classification": 0, "detection": 0, "segmentation": 1}  # as torchvision and mmsegmentation
BEST = {"classification": "top1", "detection": "ap", "segmentation": "miou"}
