"""Every image of a command gets the result that it would get alone."""

import jax
import numpy as np
import pytest
from PIL import Image

from morphism import models, tasks
from morphism.data.canvases import canvases, eval_note
from morphism.data.loose import LooseImages, Pixels
from morphism.data.pipeline import eval_batches
from morphism.errors import UserError
from morphism.evaluation.run import Run
from morphism.experiments import quickstart
from morphism.experiments.base import get_base
from morphism.runtime.mesh import AXIS

SIZES = [(31, 50), (33, 47), (40, 32), (33, 47), (64, 64), (90, 200), (200, 90), (17, 17), (35, 35), (36, 36), (37, 90)]


def pixels(sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def loose(images):
    return LooseImages([Pixels(f"image {index}", each) for index, each in enumerate(images)], ("a", "b"))


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("detection", {"image_size": 48, "max_size": 96, "canvases": ((48, 64),)}),
        ("detection", {"image_size": 48, "max_size": 96, "canvases": ()}),
        ("detection", {"resize": "fit", "canvases": ((48, 64),)}),
        ("segmentation", {"resize": "none", "exact": "auto"}),
        ("segmentation", {"resize": "none", "exact": "never", "canvases": ((48, 64),)}),
        ("segmentation", {"resize": "shorter", "image_size": 32, "exact": "never"}),
    ],
)
def test_the_canvas_of_an_image_does_not_depend_on_the_others(task, fields):
    data = get_base(task).data
    with data.unlocked():
        data.update(fields)
    images = pixels(SIZES)
    shapes, groups = canvases(loose(images), data, training=False)
    for index, each in enumerate(images):
        (alone,), (group,) = canvases(loose([each]), data, training=False)
        assert group == 0 and shapes[groups[index]] == alone
    assert len(set(shapes)) == len(shapes)


def test_a_large_image_enlarges_no_batch_of_small_ones():
    config = get_base("segmentation")
    config.data.update(resize="shorter", image_size=32, max_size=64, exact="never", canvases=((64, 64),))
    images = loose([np.zeros(size, np.uint8) for size in ((20, 2000, 3), (2000, 20, 3), (20, 20, 3))])
    areas = [batch["segmentation"].shape[1:] for batch in eval_batches(images, config, batch_size=1)]
    assert areas == [(32, 2048), (2048, 32), (32, 32)]


def test_a_batch_has_no_more_rows_than_its_images_need():
    config = get_base("classification")
    config.data.update(image_size=8, resize_size=8)
    for count, rows in ((1, [2]), (2, [2]), (3, [4]), (9, [8, 2])):
        batches = list(eval_batches(loose(pixels([(9, 9)] * count)), config, batch_size=8, least=2))
        assert [len(batch["id"]) for batch in batches] == rows
        assert sum(batch["valid"].sum() for batch in batches) == count


@pytest.fixture(scope="module")
def run():
    config = quickstart.get_config("segmentation")
    config.model.options = {"width": 4, "stages": 1}
    classes = tuple("abcdef")
    model = models.create(config.model, len(classes), AXIS)
    variables = jax.jit(lambda: models.init(model, jax.random.key(3), 40))()
    return Run(config, tasks.of(config), classes, "a run", {}, model, variables)


def test_predictions_of_odd_sizes_together_equal_those_one_by_one(run):
    """Batches of other sizes are other programs, whose sums may be rounded in another way: so probabilities could
    differ by a float's rounding, and classes where two are equal to the last bits."""
    images = pixels(SIZES[:5])
    together = {result.index: result for result in run.results(images)}
    assert sorted(together) == list(range(5))
    for index, each in enumerate(images):
        (alone,) = run.results([each])
        assert alone.mask().shape == each.shape[:2]
        assert (alone.mask() == together[index].mask()).mean() > 0.999
    assert len({together[index].mask().tobytes() for index in range(5)}) == 5


def test_results_have_the_order_of_their_images_and_a_short_text(run, tmp_path):
    images = pixels(SIZES[:3])
    Image.fromarray(images[2]).save(tmp_path / "b.png")
    given = [images[0], Image.fromarray(images[1]), tmp_path / "b.png"]
    found, drawn = run.predict(given), run.annotated(given)
    assert [each["classes"] for each in found] == [run.predict(each)[0]["classes"] for each in given]
    assert [each.size for each in drawn] == [(6 * 50, 6 * 31), (6 * 47, 6 * 33), (7 * 32, 7 * 40)]
    (result,) = run.results(given[2])
    assert repr(result).startswith(f"<Result {tmp_path / 'b.png'}: ") and len(repr(result)) < 200


def test_frames_of_a_video_are_predicted_one_after_the_other(run, tmp_path):
    frames = [Image.fromarray(each) for each in pixels([(33, 47)] * 11)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=40)
    found = list(run.frames(tmp_path / "a.gif"))
    assert [frame.number for frame, _ in found] == list(range(11))
    assert found[10][1].name == f"{tmp_path / 'a.gif'}#10" and found[10][0].time == pytest.approx(0.4)
    alone = run.predict(np.asarray(found[10][0].pixels))[0]["classes"]
    assert [each["class"] for each in alone] == [each["class"] for each in found[10][1].found["classes"]]


def test_many_canvases_are_told_with_a_remedy():
    data = get_base("segmentation").data
    data.update(resize="none")
    note = eval_note(loose(pixels(SIZES)), data)
    assert note.startswith("images on 10 canvases, and a program is compiled for each; --config.data.canvases=")
    data.update(exact="never", canvases=((224, 224),))
    assert eval_note(loose(pixels(SIZES)), data) == ""


def test_what_evaluation_may_change_of_a_run_is_a_stated_list():
    from morphism.evaluation.run import _override

    config = get_base("detection")
    _override(config, {"image_size": 640, "nms_threshold": 0.3})
    assert config.data.image_size == 640 and config.model.options.nms_threshold == 0.3
    with pytest.raises(
        UserError, match=r"config.mean: the run has its own; leave it out; what may differ: .*score_threshold"
    ):
        _override(config, {"mean": 0})
