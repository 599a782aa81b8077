"""Fields that are derived from data, budget and device."""

import json
from dataclasses import replace

import numpy as np
import pytest

from morphism.data import sources
from morphism.data.proportions import Proportions, measure
from morphism.errors import UserError
from morphism.experiments import finetune
from morphism.runtime.checkpoint import Checkpoints
from morphism.runtime.digest import digest
from morphism.runtime.manifest import read_config
from morphism.training import derive, trial
from morphism.training.budget import Budget
from morphism.training.loop import train
from morphism.training.rules import RULES, TIMED, apply
from morphism.training.rules.batch import smaller_batch
from morphism.training.rules.case import Case, Timing

CELLS = Proportions(205, np.array([(480, 640)] * 205), np.linspace(0.05, 0.4, 1000), 28)
LENGTHS = ("batch_size", "duration", "eval_every", "checkpoint_every", "log_every", "schedule.warmup")


def derived(model, images, budget="20ep", on_cpu=False, **options):
    case = Case(finetune.get_config(model), images, Budget.of(budget), on_cpu, devices=1, **options)
    case, before = apply(RULES, case)
    case, after = apply(TIMED, case)
    return case.config, before | after


def digest_of(workdir, step):
    with Checkpoints(workdir) as checkpoints:
        return digest(checkpoints.read(step))


def test_what_objects_need_decides_the_sizes_of_images_and_anchors():
    small = float(np.quantile(CELLS.objects, 0.05))
    large, _ = derived("faster_rcnn", CELLS)
    assert large.data.image_size == 448 and large.data.canvases == ((448, 608),)  # not larger than the images
    lean, reasons = derived("faster_rcnn", CELLS, on_cpu=True)
    assert lean.data.image_size * small >= 20 > 0.8 * lean.data.image_size * small
    for config in (lean, large):
        anchor = config.model.options.anchor_size
        assert anchor <= small * config.data.image_size < 2 * anchor
    assert lean.data.max_boxes == 28 and "28 boxes" in reasons["data.max_boxes"]
    tiny = replace(CELLS, sizes=np.array([(256, 256)]), objects=np.full(9, 0.02))
    assert derived("mask_rcnn", tiny)[0].data.image_size == 512  # twice as large as the images, for objects of 5 pixels


def test_images_of_both_orientations_get_one_square_canvas():
    mixed = replace(CELLS, sizes=np.array([(480, 640), (640, 480)] * 50))
    ((height, width),) = derived("yolox_s", mixed)[0].data.canvases
    assert height == width and height % 32 == 0


@pytest.mark.parametrize(("native", "side", "shown"), [(32, 64, 64), (100, 192, 192), (500, 224, 256)])
def test_classifiers_see_small_images_enlarged(native, side, shown):
    images = Proportions(5000, np.array([(native, native)]), np.zeros(0), 0)
    config, _ = derived("resnet50", images)
    assert (config.data.image_size, config.data.resize_size) == (side, shown)


def test_a_time_buys_the_largest_images_of_which_enough_can_be_seen():
    sizes = {}
    for minutes in (1, 10, 100):
        config, reasons = derived(
            "faster_rcnn", CELLS, f"{minutes}min", affordable=lambda h, w, m=minutes: m * 60 * 2e5 / (h * w)
        )
        sizes[minutes] = config.data.image_size
        assert "budget suffices for" in reasons["data.image_size"]
    assert sizes == {1: 96, 10: 288, 100: 448}  # with 5 x 205 images to see
    assert derived("faster_rcnn", CELLS, "1min", affordable=lambda h, w: 450)[0].batch_size == 4  # 100 steps


def test_a_measured_step_decides_how_many_fit_beside_the_evaluations():
    config, reasons = derived("faster_rcnn", CELLS, "5min", timing=Timing(step=0.5, evaluation=10.0, left=200.0))
    assert config.duration == "320" and config.eval_every == "80"  # 4 evaluations are a fifth of 200 s
    assert config.checkpoint_every == "80" and config.schedule.warmup == "32"
    assert "a step takes 0.5 s" in reasons["duration"]


def test_without_a_budget_small_data_is_seen_long_enough_and_large_data_not_for_ever():
    steps = {n: derived("retinanet", replace(CELLS, records=n), "")[0].duration for n in (100, 10**6)}
    assert steps == {100: "500", 10**6: "20000"}


@pytest.mark.parametrize(("records", "weights", "kept"), [(205, True, True), (10**5, True, False), (205, False, False)])
def test_weights_stay_where_there_are_some_and_few_images(records, weights, kept):
    base = finetune.get_config("faster_rcnn")
    base.init_from = base.init_from if weights else ""
    case = Case(base, replace(CELLS, records=records), Budget.of("5ep"), False, devices=1)
    config = apply(RULES, case)[0].config
    assert (bool(config.optimizer.freeze), config.model.frozen_bn) == (kept, kept)


def test_the_learning_rate_follows_the_batch_by_the_rule_of_the_optimiser():
    few = replace(CELLS, records=40)
    assert derived("faster_rcnn", few)[0].batch_size == derived("resnet18", few)[0].batch_size == 2
    assert derived("faster_rcnn", few)[0].optimizer.learning_rate == pytest.approx(2e-4 * (2 / 8) ** 0.5)
    momentum = derived("resnet18", few)[0].optimizer
    assert momentum.learning_rate == pytest.approx(0.002 * 2 / 32) and momentum.reference_batch == 0


def test_a_batch_is_halved_until_it_may_fit():
    case = Case(finetune.get_config("resnet18"), CELLS, Budget.of(""), False, devices=1)
    case.config.batch_size = 64
    assert [smaller_batch(case, needed, 100) for needed in (101, 199, 201, 900, 10**6)] == [32, 32, 16, 4, 2]


@pytest.mark.parametrize("model", finetune.MODELS)
def test_every_model_has_rules_for_all_that_it_derives_and_hand_written_values_stay(model):
    config = finetune.get_config(model)
    assert set(config.derive) <= {*RULES, *TIMED}
    config.derive = tuple(name for name in config.derive if name not in ("batch_size", "data.image_size"))
    size = config.data.image_size
    found = apply(RULES, Case(config, CELLS, Budget.of("3ep"), True, devices=1))[0].config
    assert found.batch_size == config.batch_size and found.data.image_size == size


def test_proportions_are_those_of_boxes_and_sizes(monkeypatch):
    source = sources.load(sources.within("scenes:40x64", ""), "train")
    found = measure(source, most=7)
    records = [0, 6, 13, 20, 26, 32, 39]
    boxes = np.concatenate([source.annotations(index).boxes for index in records]).astype(float)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    np.testing.assert_allclose(found.objects, np.sqrt(areas) / 64)
    assert found.records == 40 and found.sizes.tolist() == [[64, 64]] * 7
    assert found.most_boxes == max(len(source.annotations(index)) for index in range(40))


def test_a_derived_run_is_the_run_with_its_values_written_by_hand_and_goes_on_with_them(
    config, tmp_path, monkeypatch, capsys
):
    config.data.train_split, config.data.val_split = "train[:320]", "val[:64]"
    by_hand = config.copy_and_resolve_references()
    config.derive, config.budget = (*LENGTHS, "optimizer.learning_rate", "optimizer.reference_batch"), "2ep"
    config.optimizer.reference_batch = 32
    train(config, tmp_path / "derived", started=0.0)
    said = capsys.readouterr().out
    stored = read_config(tmp_path / "derived")
    (start,) = json.loads((tmp_path / "derived" / "manifest.json").read_text())
    assert set(start["derived"]) == set(config.derive) and stored.derive == ()
    assert all(f"derived {name}=" in said and reason in said for name, reason in start["derived"].items())

    for name in config.derive:
        by_hand.update_from_flattened_dict({name: stored[name] if "." not in name else value(stored, name)})
    train(by_hand, tmp_path / "by_hand")
    steps = int(2 * 320 / stored.batch_size)
    assert digest_of(tmp_path / "derived", steps) == digest_of(tmp_path / "by_hand", steps)

    monkeypatch.setattr(derive, "measure", None)  # whatever would be derived now, the stored values count
    config.budget = ""
    train(config, tmp_path / "derived")
    assert "finished at step" in capsys.readouterr().out
    config.budget = "3ep"
    with pytest.raises(UserError, match=r"config.budget='2ep', now it is '3ep'; .*--config.duration"):
        train(config, tmp_path / "derived")


def value(config, name):
    group, field = name.split(".")
    return config[group][field]


def test_a_time_is_kept_to_by_what_was_measured_and_too_little_is_an_error(config, tmp_path, monkeypatch):
    config.data.train_split, config.data.val_split = "train[:320]", "val[:64]"
    config.derive, config.budget = LENGTHS, "1h"
    monkeypatch.setattr(trial, "seconds_per_step", lambda parts: (600.0, 1.0))
    monkeypatch.setattr(trial, "seconds_per_evaluation", lambda parts: 1.0)
    train(config, tmp_path / "run")
    assert read_config(tmp_path / "run").duration == "5"
    monkeypatch.setattr(trial, "seconds_per_step", lambda parts: (7200.0, 1.0))
    with pytest.raises(UserError, match=r"config.budget=1h: .* a step takes 2.0 h .* give more"):
        train(config, tmp_path / "other")


def test_the_batch_shrinks_until_the_compiler_says_that_it_fits(config, monkeypatch, tmp_path):
    config.data.train_split, config.data.val_split = "train[:3200]", "val[:64]"
    config.derive, config.budget = ("batch_size", "duration"), "4"
    needed = []
    memory = trial.memory_needed
    monkeypatch.setattr(trial, "memory_needed", lambda parts: needed.append(memory(parts)) or needed[-1])
    monkeypatch.setattr(trial, "memory_limit", lambda: 1)
    train(config, tmp_path / "run")
    assert read_config(tmp_path / "run").batch_size == 8 and len(needed) == 2  # two for each of four devices
    assert needed[0] > needed[1] > 0
