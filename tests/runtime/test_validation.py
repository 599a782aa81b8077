import pytest
from ml_collections import ConfigDict

from morphism import tasks
from morphism.errors import UserError
from morphism.experiments.base import FIELDS, declared, get_base
from morphism.experiments.fields import flat
from morphism.experiments.parts import MULTITASK
from morphism.runtime.validation import check_config

PARTS = {"objects": "detection", "ground": "segmentation", "kind": "classification"}


def changed(**changes):
    config = get_base()
    for field, value in changes.items():
        *parents, name = field.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[name] = value
    return config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("seed", 2**32),
        ("batch_size", 0),
        ("accumulate", -2),
        ("keep", 0),
        ("best", "top2"),
        ("duration", "0"),
        ("duration", "10 epochs"),
        ("log_every", "-5"),
        ("eval_every", "often"),
        ("checkpoint_every", ""),
        ("ema__every", "0"),
        ("ema__decay", 1.0),
        ("ema__decay", -0.1),
        ("loss__label_smoothing", 1.0),
        ("loss__label_smoothing", -0.1),
        ("loss__name", "bse"),
        ("loss__class_weights", "balance"),
        ("loss__class_weights", "1,2,2"),
        ("loss__class_weights", (1.0, 0.0, 2.0)),
        ("loss__class_weights", (1.0,)),
        ("init_allow_missing", (1,)),
        ("loss__bce_threshold", 1.0),
        ("loss__focal_alpha", 1.5),
        ("loss__focal_gamma", -1.0),
        ("data__val_fraction", 1.0),
        ("data__val_fraction", -0.1),
        ("data__image_size", 0),
        ("data__image_size", 300),  # resize_size is 256
        ("data__eval_size", 300),
        ("data__eval_size", -1),
        ("data__train_crop", "centre"),
        ("data__crop_scale", (1.0, 0.08)),
        ("data__crop_scale", (0.0, 1.0)),
        ("data__crop_scale", (0.5, 1.5)),
        ("data__crop_scale", (0.5,)),
        ("data__crop_scale", ("a", "b")),
        ("data__crop_ratio", (4 / 3, 3 / 4)),
        ("data__crop_ratio", (-1.0, 1.0)),
        ("data__repeats", 0),
        ("data__workers", -1),
        ("data__workers", True),
        ("data__threads", -1),
        ("data__prefetch", 0),
        ("data__split_seed", -1),
        ("data__source", None),
        ("data__pixels", "uint16"),
        ("data__intensity", (240, -160)),
        ("data__intensity_rule", "bit"),
        ("data", None),
        ("augment__mean", (0.5, 0.5)),
        ("augment__std", (0.5, 0.5, 0.0)),
        ("augment__std", (0.5, 0.5, float("nan"))),
        ("augment__flip_probability", 1.5),
        ("augment__flip_probability", -0.5),
        ("augment__crop_padding", -1),
        ("augment__auto", "autoaugment"),
        ("augment__auto_operations", 0),
        ("augment__auto_magnitude", 31),
        ("augment__brightness", -0.1),
        ("augment__contrast", -0.1),
        ("augment__saturation", float("nan")),
        ("augment__hue", 0.6),
        ("augment__lighting", -0.1),
        ("augment__erase_probability", 1.1),
        ("augment__mixup_alpha", -0.2),
        ("augment__cutmix_alpha", float("inf")),
        ("optimizer__learning_rate", 0.0),
        ("optimizer__learning_rate", float("nan")),
        ("optimizer__momentum", 1.0),
        ("optimizer__beta2", 1.0),
        ("optimizer__epsilon", 0.0),
        ("optimizer__weight_decay", -1e-4),
        ("optimizer__clip_norm", -1.0),
        ("optimizer__freeze", (1,)),
        ("optimizer__lr_multipliers", ("fc.*", 10.0)),
        ("optimizer__lr_multipliers", (("fc.*", 0.0),)),
        ("optimizer__name", "adamm"),
        ("optimizer__decay", "none"),
        ("schedule__name", "cosin"),
        ("schedule__warmup", "x"),
        ("schedule__warmup_factor", 2.0),
        ("schedule__warmup_method", "flat"),
        ("schedule__boundaries", ("30ep", 60)),
        ("schedule__warmup_power", 0.0),
        ("schedule__hold", "x"),
        ("ema__ramp", "-1"),
        ("schedule__factor", 0.0),
        ("schedule__final_factor", -1.0),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_its_field(field, value):
    with pytest.raises(UserError, match=rf"^config\.{field.replace('__', r'.')}( is |: )") as caught:
        check_config(changed(**{field: value}))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_field_is_named():
    config = get_base().unlock()
    del config.data.strict
    with pytest.raises(UserError, match=r"config.data.strict: missing"):
        check_config(config)


def test_a_choice_that_was_meant_is_named():
    with pytest.raises(UserError, match="config.optimizer.name is 'adamm'.*did you mean adam"):
        check_config(changed(optimizer__name="adamm"))
    with pytest.raises(UserError, match="config.optimizer.decay is 'not_norm'.*did you mean not_norms"):
        check_config(changed(optimizer__decay="not_norm"))
    with pytest.raises(UserError, match="config.schedule.name is 'cosin'.*did you mean cosine"):
        check_config(changed(schedule__name="cosin"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ()}, "config.data.targets is "),
        (
            {"targets": ("boxes", "bones")},
            "config.data.targets is 'bones', which is none of boxes, label, masks, segm",
        ),
        ({"targets": ("boxes", "segmentation")}, "config.data.border_weight: missing"),
        ({"window_rule": "crop"}, "config.data.scale: missing"),
        ({"window_rule": "round"}, "config.data.window_rule is 'round', which is none of canvas, crop, square"),
    ],
)
def test_targets_and_windows_need_their_fields(changes, message):
    config = get_base("detection").unlock()
    for field, value in changes.items():
        config.data[field] = value
    with pytest.raises(UserError, match=message):
        check_config(config)


def test_a_whole_number_is_whole():
    config = get_base()
    with config.ignore_type():
        config.batch_size = 1.5
    with pytest.raises(UserError, match="^config.batch_size is 1.5; it must be a whole number of at least 1$"):
        check_config(config)


@pytest.mark.parametrize("task", FIELDS)
def test_every_field_has_a_meaning_and_a_default_within_its_range(task):
    for name, field in flat(FIELDS[task]).items():
        assert field.meaning.endswith(".") and field.range.words, name
        assert field.range.holds(field.default), name
        assert not field.range.holds(object()), name
    check_config(get_base(task, PARTS if task == "multitask" else None))


def of_parts(change):
    config = get_base("multitask", PARTS).unlock()
    change(config)
    return config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.parts.ground.update(los=1), "config.parts.ground.los: no such field"),
        (lambda c: c.parts.ground.loss.update(nme="focal"), "config.parts.ground.loss.nme: no such field; did .*.name"),
        (lambda c: c.parts.ground.loss.update(name="focl"), "config.parts.ground.loss.name is 'focl', .* mean focal"),
        (lambda c: c.parts.ground.update(weight=-1.0), "config.parts.ground.weight is -1.0; it must be"),
        (lambda c: c.parts.ground.update(task="boxes"), "config.parts.ground.task is 'boxes', which is none of"),
        (
            lambda c: c.parts.ground.update(data=ConfigDict({"max_boxes": 3})),
            "config.parts.ground.data.max_boxes: the parts share config.data.max_boxes; set that",
        ),
        (
            lambda c: c.parts.ground.loss.update(name="dice", dice_weight=1.0),
            "config.parts.ground.loss.dice_weight: the loss is Dice's already",
        ),
        (
            lambda c: c.parts.update(other=ConfigDict({"task": "detection"})),
            "config.parts.other.weight: missing; get_base",
        ),
        (lambda c: c.update(best="ap"), "config.best is 'ap', which is none of ground/dice, .*objects/ap, "),
        (lambda c: c.data.update(targets=("boxes",)), "config.data.targets has no segmentation, which config.parts.gr"),
        (
            lambda c: c.data.update(targets=("label", "boxes", "segmentation")),
            "config.data.targets: kind leads, and wo",
        ),
        (
            lambda c: c.data.update(window_rule="square", resize_size=640),
            "config.data.window_rule: square evaluates the middle",
        ),
        (lambda c: c.data.update(resize="none"), "config.data.resize: canvas has no 'none'"),
        (lambda c: c.augment.update(mosaic=0.5), "config.augment: it mixes images, but only the targets of objects"),
        (lambda c: c.augment.update(photometric=True), ""),
        (lambda c: c.augment.update(hsv=(5.0, 30.0, 30.0)), ""),
        (
            lambda c: c.parts.ground.targets.update(pixels="lanes"),
            "config.parts.ground.targets.pixels: segmentation has",
        ),
        (lambda c: c.__delitem__("parts") or c.update(parts=ConfigDict()), "config.parts: empty; start from get_base"),
        (lambda c: c.model.heads.__delitem__("kind"), "config.model.heads.kind: missing, config.parts has it"),
    ],
)
def test_the_fields_of_parts_are_checked_by_name(change, message):
    if not message:
        return check_config(of_parts(change))
    with pytest.raises(UserError, match=f"^{message}"):
        check_config(of_parts(change))


def test_the_part_that_has_the_first_target_leads():
    order = [part.name for part in tasks.of(get_base("multitask", PARTS)).parts]
    assert order == ["objects", "ground", "kind"]
    config = of_parts(lambda c: c.data.update(targets=("segmentation", "boxes", "label")))
    assert [part.name for part in tasks.of(config).parts] == ["ground", "objects", "kind"]


def test_augmentation_that_the_leading_task_lacks_is_refused():
    with pytest.raises(UserError, match="config.augment.mixup_alpha: objects leads, .* set it to 0.0"):
        check_config(of_parts(lambda c: c.augment.update(mixup_alpha=0.2)))
    with pytest.raises(UserError, match="config.augment.elastic: objects leads, .* set it to 0.0"):
        check_config(of_parts(lambda c: c.augment.update(elastic=1.0)))
    check_config(of_parts(lambda c: c.augment.update(hsv=(5.0, 30.0, 30.0))))


def test_parts_share_the_fields_of_their_tasks_alone():
    config = get_base("multitask", {"objects": "detection", "ground": "segmentation"})
    assert config.data.max_boxes and config.data.crop
    assert "mask_size" not in config.data and "eval_size" not in config.data and "mixup_alpha" not in config.augment
    assert not {"data.mask_size", "augment.mixup_alpha"} & declared(config).keys()
    check_config(config)


def test_fields_that_mean_different_things_to_tasks_are_declared_for_their_parts():
    for group in ("data", "augment"):
        for name, field in FIELDS["multitask"][group].items():
            alike = {
                (each[group][name].meaning, each[group][name].range.words)
                for task, each in FIELDS.items()
                if task != "multitask" and name in each[group]
            }
            assert len(alike) <= 1 or name in MULTITASK[group], name
            assert field.range.holds(field.default)


@pytest.mark.parametrize(
    ("group", "changes", "message"),
    [
        ("data", {"multi_scale": (0,)}, "config.data.multi_scale is"),
        ("data", {"multi_scale": (320, 352)}, "config.data.multi_scale: .* set config.data.resize to"),
        ("augment", {"fill": 256}, "config.augment.fill is 256"),
        ("augment", {"mosaic": 1.5}, "config.augment.mosaic is 1.5"),
        ("augment", {"degrees": -1.0}, "config.augment.degrees is"),
        ("augment", {"translate": 2.0}, "config.augment.translate is"),
        ("augment", {"scale": (2.0, 0.1)}, "config.augment.scale is"),
        ("augment", {"shear": 45.0}, "config.augment.shear is"),
        ("augment", {"mixup_scale": (0.0, 1.0)}, "config.augment.mixup_scale is"),
        ("augment", {"hsv": (5.0, 30.0, 300.0)}, "config.augment.hsv is"),
        ("augment", {"closing": "15 epochs"}, "config.augment.closing is"),
        ("augment", {"mixup": 1.0}, "config.augment.mixup: only mosaics are mixed"),
        ("augment", {"mosaic": 1.0, "iou_crop": True}, "config.augment.mosaic: it takes whole images"),
    ],
)
def test_what_detection_cannot_do_is_named(group, changes, message):
    config = get_base("detection")
    config[group].update(changes)
    with pytest.raises(UserError, match=message) as caught:
        check_config(config)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "focal", "class_weights": "balanced"}, "config.loss.class_weights: focal has no use for it"),
        ({"bce_threshold": 0.2}, "config.loss.bce_threshold: cross_entropy has no use for it"),
    ],
)
def test_a_field_that_the_loss_has_no_use_for_is_named(changes, message):
    config = get_base()
    config.loss.update(changes)
    with pytest.raises(UserError, match=message):
        check_config(config)


def test_balanced_sampling_has_no_use_for_repeats():
    with pytest.raises(UserError, match=r"^config.data.repeats is 4, which balanced sampling has no use for"):
        check_config(changed(data__balanced=True, data__repeats=4))
