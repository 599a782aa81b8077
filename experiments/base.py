"""Every field of a configuration: its default, its range and its meaning. An experiment is this plus its differences.

`morphism config --explain data.canvases` prints a field, `morphism config experiments/quickstart.py` an experiment's
values. The ranges are those of fields.py; with an integer bound, as in at_least(1), only integers are accepted.
"""

from collections.abc import Iterable, Mapping

from ml_collections import ConfigDict

from morphism.experiments.fields import (
    BUDGET,
    FACTORS,
    GROUP,
    HSV,
    INTENSITY,
    LENGTH,
    LENGTHS,
    MEANS,
    NAMES,
    PATTERNS,
    POSITIVE_LENGTH,
    SCALES,
    SHAPE,
    SHAPES,
    SIZES,
    SPACING,
    STDS,
    SWITCH,
    TEXT,
    TEXTS,
    WRITERS,
    Field,
    Fields,
    above,
    at_least,
    at_most,
    below,
    between,
    defaults,
    flat,
    interval,
    merged,
    numbers_or,
    one_of,
    optional,
)
from morphism.experiments.parts import HEAD, HEADS, MULTITASK, PART

MASK_SIZE = Field(112, at_least(1), "Training: a mask of each object has this many cells per side (frames.py).")


def get_base(task: str = "classification", parts: Mapping[str, str] | None = None) -> ConfigDict:
    """The configuration of a task in which every field has its default.

    For "multitask", `parts` are the tasks that are learned together, by names for them: {"objects": "detection",
    "ground": "segmentation"}. The part that comes first leads (tasks/composed.py), and its best metric is config.best.
    """
    config = defaults(multitask_fields(parts.values()) if parts else FIELDS[task])
    for part, each in (parts or {}).items():
        config.parts[part] = defaults(part_fields(each))
        config.parts[part].task = each
        config.model.heads[part] = ConfigDict({"name": HEADS[each], "options": ConfigDict({}, convert_dict=False)})
    if parts:
        targets = [target for each in parts.values() for target in FIELDS[each]["data"]["targets"].default]
        config.data.targets = tuple(dict.fromkeys(targets))
        first, of = next(iter(parts.items()))
        config.best = f"{first}/{FIELDS[of]['best'].default}"
    return config.lock()


def part_fields(task: str) -> Fields:
    """The fields of a part of a multitask configuration, config.parts.<part>: those of its task that are its own."""
    return PART | {group: each for group, each in FIELDS[task].items() if group not in COMMON}


def declared(config: ConfigDict) -> dict[str, Field]:
    """Every field that `config` should have: dotted name -> Field, in the order of declaration.

    Those of parts and heads follow their group. A part whose task does not exist has the field `task` alone.
    """
    found, parts = {}, _groups(config.get("parts"))
    tasks = {part.get("task") for part in parts.values()}
    for name, field in flat(multitask_fields(tasks) if "parts" in config else FIELDS[config.task]).items():
        found[name] = field
        if name == "parts":
            for part, given in parts.items():
                known = given.get("task") in HEADS
                found |= flat(part_fields(given.task) if known else {"task": PART["task"]}, f"parts.{part}.")
        if name == "model.heads":
            for part in _groups(config.model.get("heads")):
                found |= flat(HEAD, f"model.heads.{part}.")
    return found


def completed(config: ConfigDict) -> ConfigDict:
    """`config` with the defaults of fields that it lacks: those of a run that an earlier version began.

    A new field's default leaves everything as it was before there was such a field.
    """
    found = config.copy_and_resolve_references().unlock()
    for name, field in declared(found).items() if found.get("task") in FIELDS else ():
        *groups, last = name.split(".")
        node = found
        for each in groups:
            if each not in node:
                node[each] = ConfigDict()
            node = node[each]
            if not isinstance(node, ConfigDict):
                break  # which check_config reports
        else:
            if last not in node:
                node[last] = field.default
    return found.lock()


def _groups(value: ConfigDict | None) -> dict[str, ConfigDict]:
    """The groups among the values of a group."""
    values = value.items() if isinstance(value, ConfigDict) else ()
    return {name: each for name, each in values if isinstance(each, ConfigDict)}


COMMON = dict(
    task=Field(
        "",
        one_of("classification", "detection", "instances", "segmentation", "multitask"),
        "What the model learns.",
    ),
    seed=Field(0, between(0, 2**32 - 1), "Seed of initialisation, shuffling, cropping and augmentation."),
    precision=Field(
        "default",
        one_of("default", "high", "highest"),
        "Products in float32. default: on GPUs TF32, on TPUs 1 bfloat16 pass; high: TF32, 3 passes; highest: float32.",
    ),
    deterministic=Field(False, SWITCH, "On GPUs: only algorithms that give the same bits in every process; slower."),
    batch_size=Field(128, at_least(1), "Examples per step, over all devices and processes."),
    eval_batch_size=Field(0, at_least(0), "Examples per evaluation step, rounded up to the devices; 0: batch_size."),
    mesh=dict(
        fsdp=Field(1, at_least(0), "Devices that share one copy of parameters and optimiser's state; 0: all devices."),
    ),
    accumulate=Field(1, at_least(1), "Micro-batches that a step is split into, to save memory."),
    derive=Field((), TEXTS, "Fields that training derives from data and budget (training/rules/) before it starts."),
    budget=Field("", BUDGET, 'What derived fields keep to: "30min" from start to end, "20ep", "500"; "": the data.'),
    duration=Field("10ep", POSITIVE_LENGTH, "Length of the whole training."),
    log_every=Field("50", LENGTH, 'How often a line is logged; "0": only on evaluating or saving.'),
    eval_every=Field("1ep", LENGTH, 'How often to evaluate on data.val_split, and save; "0": only at the end.'),
    checkpoint_every=Field("1ep", LENGTH, 'How often to save between evaluations; "0": never.'),
    keep=Field(2, at_least(1), "Newest checkpoints to keep, besides the best."),
    best=Field("", TEXT, 'Metric of the validation split that marks the best checkpoint; "": the newest is.'),
    plots=Field(True, SWITCH, "Draw evaluations, learning curves and the first batch: workdir/plots, TensorBoard."),
    stop=dict(
        metric=Field("", TEXT, 'Metric of early stopping; "": config.best.'),
        patience=Field(0, at_least(0), "Above 0: stop after this many evaluations in a row without a better value."),
        min_delta=Field(0.0, at_least(0.0), "Least difference from the best value so far that counts as better."),
    ),
    writers=Field(("tensorboard",), WRITERS, "Where values go besides metrics.jsonl; all but tensorboard are extras."),
    init_from=Field("", TEXT, "Weights to start from: a file, torchvision:<name>/<weights>, or a run's workdir."),
    init_rename=Field((), TEXTS, 'Rules "regular expression -> replacement" for the names in init_from.'),
    init_allow_missing=Field((), TEXTS, "Regular expressions of names that init_from may lack; they start untrained."),
    init_allow_unexpected=Field((), TEXTS, "Regular expressions of names in init_from to ignore."),
    model=dict(
        name=Field("resnet50", TEXT, "Architecture: a name in MODELS of models/*.py."),
        dtype=Field("float32", one_of("float32", "bfloat16"), "Type of the computation; parameters stay float32."),
        remat=Field(False, SWITCH, "Recompute activations in the backward pass: less memory, more time."),
        remat_policy=Field("blocks", one_of("blocks", "products"), "products: remat keeps results of convolutions."),
        sync_bn=Field(False, SWITCH, "Batch norm over the examples of all devices, instead of each device's own."),
        frozen_bn=Field(False, SWITCH, "Batch norm uses its running statistics; they, scale and shift are frozen."),
        options=Field({}, GROUP, "Further fields of the architecture."),
    ),
    data=dict(
        source=Field("embedded", TEXT, "One of data/sources: embedded, folder:<path>, tfds:<name>, coco:<path>, ..."),
        data_dir=Field("", TEXT, 'Folder of prepared TFDS datasets; "": the default of TFDS.'),
        train_split=Field("train", TEXT, 'Split to train on, or a slice of it: "train[:6%]", "train[100:200]".'),
        val_split=Field("val", TEXT, "Split to evaluate on."),
        val_fraction=Field(0.0, below(0.0, 1.0), 'Above 0: cut "val" from the train split, by a hash of each name.'),
        split_seed=Field(0, at_least(0), "Seed of the hash of val_fraction."),
        repeats=Field(1, at_least(1), "Repeated augmentation: how often each image is in a batch (data/sampling.py)."),
        balanced=Field(False, SWITCH, "Draw each class equally often, however many images it has."),
        pixels=Field("auto", one_of("auto", "uint8", "float32"), "float32 is for high-bit images; auto: by content."),
        intensity=Field((), INTENSITY, "Stored values of high-bit images that become black and white; (): by rule."),
        intensity_rule=Field("bits", one_of("bits", "type", "percentiles"), "Rule that finds intensity."),
        workers=Field(0, at_least(0), "Processes that load examples; 0: threads of this process."),
        threads=Field(2, at_least(0), "Threads per process that load examples."),
        on_device=Field(False, SWITCH, "Keep the decoded train split on the devices (data/fixed.py: when)."),
        eval_loss=Field(False, SWITCH, "Evaluation of detectors computes their loss, for config.best or stop.metric."),
        strict=Field(False, SWITCH, "Refuse odd images, otherwise corrected and counted (data/image.py)."),
        broken=Field("error", one_of("error", "skip"), "A record that cannot be read ends the run, or is skipped."),
        prefetch=Field(4, at_least(1), "Batches that each process loads ahead."),
        timeout=Field(300, above(0), "Seconds without a batch after which the input counts as hung."),
    ),
    augment=dict(
        mean=Field((0.485, 0.456, 0.406), MEANS, "Subtracted from pixels in 0..1, per channel (ImageNet's)."),
        std=Field((0.229, 0.224, 0.225), STDS, "Divides pixels after mean is subtracted, per channel."),
        flip_probability=Field(0.5, between(0.0, 1.0), "Probability of a left-right flip."),
    ),
    optimizer=dict(
        name=Field(
            "momentum",
            one_of("sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw", "lars"),
            "Update rule, as in torch.",
        ),
        learning_rate=Field(0.1, above(0.0), "Peak learning rate, reached after the warm-up."),
        reference_batch=Field(0, at_least(0), "Above 0: learning_rate is for this batch size, and scales with ours."),
        momentum=Field(0.9, below(0.0, 1.0), "momentum, nesterov, rmsprop, lars: decay of the sum of gradients."),
        rms_decay=Field(0.99, below(0.0, 1.0), "rmsprop: decay of the average of squares, torch's alpha."),
        beta1=Field(0.9, below(0.0, 1.0), "adam, adamw: decay of the average of gradients."),
        beta2=Field(0.999, below(0.0, 1.0), "adam, adamw: decay of the average of squared gradients."),
        epsilon=Field(1e-8, above(0.0), "rmsprop, adagrad, adam, adamw: added to the root, not inside it."),
        trust_coefficient=Field(0.001, above(0.0), "lars: ratio of the update's norm to the parameters'."),
        weight_decay=Field(0.0, at_least(0.0), "L2 in the gradient, as in torch; adamw: decoupled; lars: in ratio."),
        decay=Field("all", one_of("all", "not_norms", "kernels"), "Parameters that weight_decay acts on."),
        clip_norm=Field(0.0, at_least(0.0), "Above 0: the largest global norm of the gradient."),
        freeze=Field((), PATTERNS, "Patterns of paths of parameters that are frozen."),
        lr_multipliers=Field((), FACTORS, "Factors of the learning rate by path; the first matching pattern counts."),
    ),
    schedule=dict(
        name=Field("cosine", one_of("constant", "step", "cosine", "polynomial"), "How the learning rate falls."),
        warmup=Field("0", LENGTH, "Length of the rise from warmup_factor to the full learning rate."),
        warmup_method=Field("linear", one_of("linear", "constant"), "constant: warmup_factor until the warm-up ends."),
        warmup_factor=Field(0.0, between(0.0, 1.0), "Share of the learning rate at the start of the warm-up."),
        warmup_power=Field(1.0, above(0.0), "Exponent of the rise; 2: quadratic (YOLOX)."),
        boundaries=Field(("30ep", "60ep", "80ep"), LENGTHS, "step: when the learning rate is multiplied by factor."),
        factor=Field(0.1, above(0.0), "step: factor of the learning rate at each boundary."),
        final_factor=Field(0.0, between(0.0, 1.0), "cosine, polynomial: share of the learning rate at the end."),
        hold=Field("0", LENGTH, "cosine, polynomial: length of the final part at final_factor."),
        power=Field(0.9, above(0.0), "polynomial: exponent of the fall."),
    ),
    ema=dict(
        decay=Field(0.0, below(0.0, 1.0), "Above 0: keep, save and evaluate a moving average of the parameters."),
        every=Field("1", POSITIVE_LENGTH, "How often the average is updated; during the warm-up it is a copy."),
        ramp=Field("0", LENGTH, 'Above "0": no copies; decay is multiplied by 1 - exp(-step / ramp) (YOLOX).'),
    ),
)
CLASSIFICATION = dict(
    task="classification",
    best="top1",
    data=dict(
        targets=Field(("label",), NAMES, "What examples are learned from: names of data/targets."),
        window_rule=Field("square", one_of("square", "canvas", "crop"), "How windows are drawn (data/examples.py)."),
        image_size=Field(224, at_least(1), "Side of the network's input, in pixels."),
        eval_size=Field(0, at_least(0), "Side of the input in evaluation; 0: image_size."),
        resize_size=Field(256, at_least(1), "Evaluation: the shorter side before the central crop."),
        train_crop=Field("random_resized", one_of("random_resized", "center"), "center: as in evaluation."),
        crop_scale=Field((0.08, 1.0), interval(0.0, 1.0), "random_resized: share of the image's area."),
        crop_ratio=Field((3 / 4, 4 / 3), interval(0.0), "random_resized: width / height."),
    ),
    augment=dict(
        crop_padding=Field(0, at_least(0), "Above 0: pad by this many black pixels, then crop at random."),
        auto=Field("", one_of("", "randaugment", "trivialaugment"), "Automatic augmentation."),
        auto_operations=Field(2, at_least(1), "randaugment: operations, one after the other."),
        auto_magnitude=Field(9, between(0, 30), "randaugment: strength of the operations."),
        brightness=Field(0.0, at_least(0.0), "Colour jitter: a factor from 1 - this to 1 + this."),
        contrast=Field(0.0, at_least(0.0), "Colour jitter: a factor from 1 - this to 1 + this."),
        saturation=Field(0.0, at_least(0.0), "Colour jitter: a factor from 1 - this to 1 + this."),
        hue=Field(0.0, between(0.0, 0.5), "Colour jitter: largest rotation of the hue; 0.5 is half the circle."),
        lighting=Field(0.0, at_least(0.0), "Std of the weights of ImageNet's colour components (AlexNet: 0.1)."),
        erase_probability=Field(0.0, between(0.0, 1.0), "Probability of erasing a random rectangle."),
        mixup_alpha=Field(0.0, at_least(0.0), "Above 0: mixup, with this parameter of the beta distribution."),
        cutmix_alpha=Field(0.0, at_least(0.0), "Above 0: cutmix; with mixup too, one of them at random per pair."),
    ),
    loss=dict(
        name=Field("cross_entropy", one_of("cross_entropy", "bce", "focal"), "Loss; bce: binary, a sigmoid per class."),
        label_smoothing=Field(0.0, below(0.0, 1.0), "Share of the label that is spread over all classes."),
        class_weights=Field((), numbers_or("balanced"), "Weight per class; balanced: n / (K n_k) in the train split."),
        bce_threshold=Field(0.0, below(0.0, 1.0), "Above 0: mixed or smoothed labels above it become 1, others 0."),
        focal_alpha=Field(0.25, at_most(1.0), "focal: weight of positives, 1 - this of negatives; below 0: both 1."),
        focal_gamma=Field(2.0, at_least(0.0), "focal: exponent that lowers the loss of easy examples."),
    ),
)
DETECTION = dict(
    task="detection",
    best="ap",
    data=dict(
        targets=Field(("boxes",), NAMES, "What examples are learned from: names of data/targets."),
        window_rule=Field("canvas", one_of("square", "canvas", "crop"), "How windows are drawn (data/examples.py)."),
        image_size=Field(800, at_least(1), "Pixels of the shorter side, or of both sides, after resizing."),
        resize=Field("shorter", one_of("shorter", "stretch", "fit"), "shorter and fit keep the aspect."),
        max_size=Field(1333, at_least(1), "shorter: the longer side is at most this."),
        train_sizes=Field((), SIZES, "Training: each image draws its image_size, as from (640, 672, ..., 800)."),
        canvases=Field((), SHAPES, "Sizes of batches; an image is put on the smallest that holds it; (): found."),
        multi_scale=Field((), SIZES, "Training: sides of a square canvas, drawn every 10 steps: (480, ..., 800)."),
        max_boxes=Field(100, at_least(1), "Slots for boxes per image; more are an error, or left out of a mosaic."),
    ),
    augment=dict(
        zoom_out=Field(0.0, between(0.0, 1.0), "SSD: probability of a smaller image on a mean-coloured ground."),
        iou_crop=Field(False, SWITCH, "SSD: crop a random part that overlaps a box by at least a random IoU."),
        scale_jitter=Field((), optional(interval(0.0)), "Large-scale jitter (Ghiasi et al. 2021), such as (0.1, 2.0)."),
        photometric=Field(False, SWITCH, "SSD: brightness, contrast, saturation and hue."),
        fill=Field(-1, between(-1, 255), "Grey of the canvas around an image; -1: zero after normalising."),
        mosaic=Field(0.0, between(0.0, 1.0), "YOLOX: probability of four images in one, rotated, scaled and sheared."),
        degrees=Field(10.0, between(0.0, 180.0), "mosaic: the largest rotation in either direction."),
        translate=Field(0.1, between(0.0, 1.0), "mosaic: the largest shift, as a share of the canvas."),
        scale=Field((0.1, 2.0), interval(0.0), "mosaic: range of a random factor of the size."),
        shear=Field(2.0, below(0.0, 45.0), "mosaic: the largest shear, in degrees."),
        mixup=Field(0.0, between(0.0, 1.0), "mosaic: probability of blending it half and half with another image."),
        mixup_scale=Field((0.5, 1.5), interval(0.0), "mixup: range of a random factor of the other image's size."),
        hsv=Field((0.0, 0.0, 0.0), HSV, "YOLOX: largest shifts, in OpenCV's units, such as (5, 30, 30)."),
        closing=Field("0", LENGTH, "Length of the last epochs, without mosaic; in them YOLOX adds an L1 loss."),
    ),
)
INSTANCES = dict(
    task="instances",
    best="mask_ap",
    data=dict(targets=("boxes", "masks"), mask_size=MASK_SIZE),
    metrics=dict(
        medical=Field(False, SWITCH, "morphism eval adds AJI and the nuclei papers' precision (tasks/nuclei.py)."),
        score=Field(0.5, between(0.0, 1.0), "Detections with a lower score do not count for metrics.medical."),
    ),
)
SEGMENTATION = dict(
    task="segmentation",
    eval_batch_size=1,  # as mmsegmentation
    best="miou",
    data=dict(
        targets=Field(("segmentation",), NAMES, "What examples are learned from: names of data/targets."),
        window_rule=Field("crop", one_of("square", "canvas", "crop"), "How windows are drawn (data/examples.py)."),
        image_size=Field(520, at_least(1), "Pixels of the shorter side after resizing."),
        resize=Field("shorter", one_of("shorter", "none"), "shorter keeps the aspect; none: as they are."),
        max_size=Field(2048, at_least(1), "shorter: the longer side is at most this."),
        antialias=Field(False, SWITCH, "Resize as Pillow does, instead of as torch and OpenCV do."),
        scale=Field((1.0, 1.0), interval(0.0), "Training: range of a random factor of the size."),
        crop=Field((480, 480), SHAPE, "Training: height and width of a random part, padded with ignored pixels."),
        cat_max_ratio=Field(1.0, above(0.0, 1.0), "Training: redraw a crop with more of one class, at most 10 times."),
        border_weight=Field(0.0, at_least(0.0), "Above 0: U-Net's weight of pixels between objects (there 10)."),
        border_sigma=Field(5.0, above(0.0), "Std of border_weight over the distance from objects, in pixels."),
        exact=Field("auto", one_of("auto", "always", "never"), "Evaluate at own sizes; auto: if there are at most 8."),
        canvases=Field((), SHAPES, "Evaluation, if not exact: each image is on the smallest that holds it; (): one."),
        window=Field((), optional(SHAPE), "Evaluation: size of windows that overlap by a third; (): the whole image."),
        view_scales=Field((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), SCALES, "Scales of eval.py --views scales."),
        spacing=Field((), SPACING, "Height and width of a stored pixel in mm, for metrics.medical; (): use pixels."),
    ),
    augment=dict(
        photometric=Field(False, SWITCH, "mmsegmentation's brightness, contrast, saturation and hue."),
        fill=Field(-1, between(-1, 255), "Training: grey of the canvas around an image; -1: zero after normalising."),
        elastic=Field(0.0, at_least(0.0), "Above 0: U-Net's deformation, with this std in pixels on a grid of 3 x 3."),
    ),
    loss=dict(
        name=Field("cross_entropy", one_of("cross_entropy", "focal", "ohem", "lovasz", "dice"), "ohem: hard pixels."),
        aux_weight=Field(0.5, at_least(0.0), "Weight of the auxiliary head's loss, where the model has one."),
        class_weights=Field((), numbers_or("median_frequency"), "Weight per class, or a rule for the train split."),
        focal_gamma=Field(2.0, at_least(0.0), "focal: exponent that lowers the loss of easy pixels."),
        ohem_threshold=Field(0.7, between(0.0, 1.0), "ohem: pixels whose class has a lower probability are hard."),
        ohem_pixels=Field(100_000, at_least(0), "ohem: the fewest pixels per device that count as hard."),
        dice_weight=Field(0.0, at_least(0.0), "Above 0: the Dice loss is added with this weight."),
    ),
    metrics=dict(
        medical=Field(False, SWITCH, "morphism eval adds Dice per image, HD95 and more (tasks/surfaces.py)."),
        tolerance=Field(2.0, at_least(0.0), "Surface Dice: largest distance of a match, in the unit of spacing."),
    ),
)
FIELDS = {
    "classification": merged(COMMON, CLASSIFICATION),
    "detection": merged(COMMON, DETECTION),
    "instances": merged(merged(COMMON, DETECTION), INSTANCES),
    "segmentation": merged(COMMON, SEGMENTATION),
}


def multitask_fields(tasks: Iterable[str]) -> Fields:
    """The fields of a multitask configuration whose parts have these `tasks`: of data and augment those of any."""
    found, learned = COMMON, set(tasks)
    for task in HEADS:  # in one order, whatever that of the parts
        if task in learned:
            found = merged(found, {group: FIELDS[task][group] for group in ("data", "augment")})
    return merged(found, MULTITASK)


FIELDS["multitask"] = multitask_fields(HEADS)
