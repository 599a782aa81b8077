from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism import tasks
from morphism.data.canvases import canvases
from morphism.data.examples import eval_example
from morphism.data.oddities import Oddities
from morphism.errors import UserError
from morphism.evaluation.loop import Drawn, evaluate, predict
from morphism.evaluation.step import make_eval_step
from morphism.experiments.base import get_base
from morphism.models.layers import BatchNorm, conv
from morphism.models.pspnet import PyramidHead
from morphism.ops import segmentation as ops
from morphism.ops.platform import as_accelerator, as_tpu
from morphism.ops.resize import resize_bilinear
from morphism.runtime.mesh import replicated
from morphism.runtime.validation import check_config
from morphism.tasks import boundaries, segmentation_views

segmentation = tasks.get("segmentation")
MODEL = nn.Dense(5)  # which a segmentation does not read
CLASSES = ("ground", "road", "sky", "sign", "car")
RNG = np.random.default_rng(0)


def arrays(batch):
    return jax.tree.map(jnp.asarray, batch)


class Pictures:
    """Noise of some sizes, with masks of four of the five classes, and ignored pixels."""

    classes, oddities = CLASSES, ""
    targets = property(lambda self: {"segmentation": self.classes})
    sizes = np.array([(20, 31), (17, 24), (33, 12), (20, 31), (9, 9), (25, 25), (20, 31)], np.int32)

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        size = self.sizes[index]
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        mask = rng.choice([0, 1, 2, 4, 255], size).astype(np.uint8)
        return {"image": image, "name": f"image {index}", "segmentation": mask}


class Colours(nn.Module):
    """Logits that are a linear map of each pixel's colour, at half the size, enlarged again, as networks' are."""

    reads = ()

    @nn.compact
    def __call__(self, images, *, train):
        half = resize_bilinear(images, *(max(1, side // 2) for side in images.shape[1:3]))
        weights = jnp.array(np.random.default_rng(7).normal(size=(3, 5)), jnp.float32)
        return {
            "out": resize_bilinear(jnp.einsum("bhwc,ck->bhwk", half, weights, precision="highest"), *images.shape[1:3])
        }


@pytest.fixture
def config():
    config = get_base("segmentation")
    config.batch_size = 4
    config.eval_batch_size = 4
    config.data.update(image_size=16, max_size=40, crop=(16, 16), canvases=((16, 24), (48, 48)), exact="never")
    return config


def run(config, mesh, views="center", source=None):
    source = source or Pictures()
    step = make_eval_step(Colours(), segmentation, config, mesh, views)
    batches = list(predict(step, {}, source, config, mesh, Oddities(source, print)))
    return evaluate(segmentation, source, batches), [batch.rows for batch in batches]


def test_the_metrics_are_a_plain_count_at_the_masks_own_size_on_any_number_of_devices(config, mesh_of):
    results = {}
    for devices in (1, 2, 4):
        results[devices], batches = run(config, mesh_of(devices))
    losses = [summary["loss"] for summary in results.values()]
    counted = [summary | {"loss": 0.0} for summary in results.values()]
    assert counted == [counted[0]] * 3 and losses == pytest.approx([losses[0]] * 3)
    counts = np.zeros((5, 5), int)
    for batch in batches:
        for row, index in enumerate(batch["id"]):
            true, found = Pictures()[int(index)]["segmentation"], segmentation.mask(batch, row)
            assert found.shape == true.shape
            np.add.at(counts, (true[true != 255], found[true != 255]), 1)
    summary = results[1]
    np.testing.assert_array_equal(summary["confusion"], counts)
    true, right, found = counts.sum(1), np.diag(counts), counts.sum(0)
    iou = {k: right[k] / (true[k] + found[k] - right[k]) for k in range(5) if true[k] + found[k]}
    assert summary["miou"] == pytest.approx(np.mean(list(iou.values())))
    assert summary["per_class"] == {name: pytest.approx(iou[k]) if k in iou else None for k, name in enumerate(CLASSES)}
    assert summary["pixel_accuracy"] == pytest.approx(right.sum() / true.sum())
    assert summary["mean_accuracy"] == pytest.approx(np.mean([right[k] / true[k] for k in range(5) if true[k]]))
    assert summary["frequency_weighted_iou"] == pytest.approx(
        sum(true[k] * iou.get(k, 0) for k in range(5)) / true.sum()
    )
    assert summary["dice"] == pytest.approx(np.mean([2 * right[k] / (true[k] + found[k]) for k in iou]))
    assert summary["examples"] == 7 and summary["pixels"] == true.sum()
    table = segmentation.table(summary)
    assert table["miou"] == summary["miou"] and table["iou, road"] == summary["per_class"]["road"]


def test_classes_are_those_of_the_logits_resized_to_the_masks_size(config, mesh_of):
    """One image at a time, without a canvas around it."""
    source = Pictures()
    _, batches = run(config, mesh_of(2))
    config.data.canvases = ()

    @partial(jax.jit, static_argnums=(2, 3))
    def alone(image, size, shape, original):
        image = segmentation.normalise({"image": image, "size": size}, config.augment)
        logits = Colours().apply({}, image[:, : shape[0], : shape[1]], train=False)["out"]
        return jnp.argmax(resize_bilinear(logits, *original), axis=-1)

    for batch in batches:
        for row, index in enumerate(batch["id"]):
            shape = canvases(source, config.data, training=False)[0][0]
            example = eval_example(source, int(index), config, shape)
            size = np.array([example["size"]])
            [expected] = alone(
                example["image"][None], size, tuple(size[0].tolist()), tuple(source.sizes[index].tolist())
            )
            assert np.mean(segmentation.mask(batch, row) == expected) > 0.9  # but where the canvas's zeros are near


class Pooled(nn.Module):
    """A segmenter of output stride 8 in little: what it finds anywhere depends on a mean over the whole image."""

    reads = ("sizes",)

    @nn.compact
    def __call__(self, images, *, train, sizes=None):
        cells = None if sizes is None else -(-sizes // 8)
        x = nn.relu(conv(8, 3, 8, pad=1, dtype=jnp.float32, name="stride")(images))
        x = PyramidHead(5, partial(BatchNorm), jnp.float32, 8)(x, cells, train=False)
        return {"out": resize_bilinear(x, *images.shape[1:3])}


class Some(Pictures):
    """The images of Pictures of these numbers, in this order, three times as large and of patches."""

    def __init__(self, *numbers):
        self.numbers = numbers
        self.sizes = 3 * Pictures.sizes[list(numbers)]

    def __getitem__(self, index):
        rng = np.random.default_rng(self.numbers[index])
        height, width = self.sizes[index].tolist()
        image = rng.integers(0, 256, (5, 5, 3), np.uint8).repeat(20, axis=0).repeat(20, axis=1)[:height, :width]
        return {"image": image, "name": f"image {index}", "segmentation": np.zeros((height, width), np.uint8)}


@pytest.fixture(scope="module")
def pooled():
    rng = np.random.default_rng(0)
    like = jax.eval_shape(lambda: Pooled().init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))

    def drawn(path, x):
        return jnp.array(
            rng.uniform(0.5, 1, x.shape) if path[-1].key == "var" else rng.normal(size=x.shape), jnp.float32
        )

    return jax.tree_util.tree_map_with_path(drawn, like)


@pytest.mark.parametrize(("exact", "share"), [("auto", 0.0), ("never", 0.1)])
def test_what_is_found_depends_neither_on_other_images_nor_on_their_order(config, mesh_of, pooled, exact, share):
    """To the bit with each at its own size; on shared canvases but for pixels near borders."""
    config.eval_batch_size = 2
    config.data.update(resize="none", canvases=(), exact=exact)
    mesh, told = mesh_of(1), []
    step, variables = make_eval_step(Pooled(), segmentation, config, mesh), jax.device_put(pooled, replicated(mesh))

    def masks(*numbers):
        source = Some(*numbers)
        batches = predict(step, variables, source, config, mesh, Oddities(source, told.append))
        return {
            numbers[int(index)]: segmentation.mask(batch, row)
            for batch, _ in batches
            for row, index in enumerate(batch["id"])
        }

    alone = {number: masks(number)[number] for number in (0, 1)}
    assert all(len(np.unique(mask)) > 1 for mask in alone.values())
    for numbers in ((0, 2, 1), (3, 1, 0)):  # beside a larger one; as the second of its size
        beside = masks(*numbers)
        for number, mask in alone.items():
            assert np.mean(beside[number] != mask) <= share
    assert bool(told) == (exact == "never")


def test_an_image_that_is_not_resized_keeps_its_logits_classes(config, mesh_of):
    config.data.update(resize="none", canvases=())
    source = Pictures()
    source.sizes = np.array([(20, 30)] * 5, np.int32)
    _, batches = run(config, mesh_of(1), source=source)
    image = segmentation.normalise(
        arrays({"image": source[0]["image"][None], "size": np.array([[20, 30]])}), config.augment
    )
    expected = np.argmax(Colours().apply({}, image, train=False)["out"], axis=-1)[0]
    np.testing.assert_array_equal(batches[0]["classes"][0], expected)


@pytest.mark.parametrize("views", ["flip", "scales", "scales_flip"])
def test_views_average_probabilities(config, views):
    """Of images that are part of their canvas those of the images alone, whose mirror images stand where they do."""
    data = config.data
    data.view_scales = (0.5, 1.0)
    images = jnp.array(RNG.normal(size=(2, 12, 18, 3)), jnp.float32)

    def apply(x, sizes=None):
        return Colours().apply({}, x, train=False)

    found = segmentation_views.infer(apply, images, jnp.array([(12, 18)] * 2), data, views)["out"]
    each = []
    for size in ((6, 9), (12, 18)) if views.startswith("scales") else ((12, 18),):
        x = resize_bilinear(images, *size)
        each.append(resize_bilinear(apply(x)["out"], 12, 18))
        if views.endswith("flip"):
            each.append(resize_bilinear(apply(x[:, :, ::-1])["out"][:, :, ::-1], 12, 18))
    expected = np.mean([jax.nn.softmax(x) for x in each], axis=0)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-4)

    canvas, seen = jnp.pad(images, ((0, 0), (0, 12), (0, 6), (0, 0))), []
    segmentation_views.infer(
        lambda x, sizes: seen.append(sizes) or apply(x), canvas, jnp.array([(12, 18)] * 2), data, views
    )
    mirror = segmentation_views.mirrored(canvas, jnp.array([(12, 18)] * 2))
    np.testing.assert_array_equal(mirror[:, :, :18], canvas[:, :, 17::-1])
    assert not mirror[:, :, 18:].any()
    assert np.array(seen)[:, 0].tolist() == ([[6, 9], [12, 18]] if views.startswith("scales") else [[12, 18]])


def test_windows_cover_the_image_and_their_logits_are_averaged(config):
    config.data.window = (9, 12)
    assert segmentation_views.window_starts(20, 9) == [0, 6, 11] and segmentation_views.window_starts(9, 9) == [0]
    images = jnp.array(RNG.normal(size=(1, 20, 31, 3)), jnp.float32)

    def pixelwise(x, sizes):
        shown = jnp.broadcast_to(sizes[:, None, None], (*x.shape[:3], 2)).astype(x.dtype)
        return {"out": jnp.concatenate([x, shown], axis=-1)}

    found = segmentation_views.infer(pixelwise, images, jnp.array([(8, 31)]), config.data, "center")["out"]
    np.testing.assert_allclose(found[..., :3], images, rtol=1e-5)
    # Rows 0 to 8 are seen from row 0, of which 8 show the image; row 10 by the window of row 6, of which 2 do.
    assert found[0, 0, 0, 3:].tolist() == [8, 12] and found[0, 10, 0, 3:].tolist() == [2, 12]

    seen = []
    segmentation_views.infer(
        lambda x, sizes: seen.append(x.shape) or pixelwise(x, sizes),
        images[:, :7],
        jnp.array([(7, 31)]),
        config.data,
        "center",
    )
    assert set(seen) == {(1, 7, 12, 3)}


def test_a_program_holds_the_network_once_however_many_windows_and_views_there_are(config):
    config.data.update(window=(8, 8), view_scales=(1.0,))
    calls = []

    def apply(x, sizes):
        return calls.append(x.shape) or {"out": x}

    jax.eval_shape(
        lambda x: segmentation_views.infer(apply, x, jnp.array([(64, 96)]), config.data, "scales_flip"),
        jnp.zeros((1, 64, 96, 3)),
    )
    assert len(calls) <= 3 and set(calls) == {(1, 8, 8, 3)}  # traced for its shape, and in each of two loops


def test_the_loss_adds_the_auxiliary_heads_and_leaves_out_padding(config):
    logits = jnp.array(RNG.normal(size=(3, 6, 7, 5)), jnp.float32)
    labels = RNG.choice([0, 1, 2, 255], (3, 6, 7)).astype(np.uint8)
    batch = {"segmentation": labels, "valid": np.array([True, True, False])}
    config.loss.aux_weight = 0.4
    total, scalars = segmentation.loss(MODEL, {"out": logits, "aux": 2 * logits}, arrays(batch), config)
    plain, aux = (ops.cross_entropy(x[:2], labels[:2]) for x in (logits, 2 * logits))
    assert total == pytest.approx(float(plain + 0.4 * aux), rel=1e-6)
    assert scalars["aux"] == pytest.approx(float(aux), rel=1e-6)
    counted = labels[:2] != 255
    right = (np.argmax(logits[:2], -1) == labels[:2])[counted]
    assert scalars["pixel_accuracy"] == pytest.approx(right.mean())
    config.loss.update(dice_weight=3.0, aux_weight=0.0)
    total, _ = segmentation.loss(MODEL, {"out": logits, "aux": logits}, arrays(batch), config)
    assert total == pytest.approx(float(plain + 3 * ops.dice(logits[:2], labels[:2])), rel=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "ohem", "lovasz", "dice"])
def test_every_loss_of_the_config_runs(config, name):
    config.loss.update(name=name, ohem_pixels=10)
    check_config(config)
    logits = jnp.array(RNG.normal(size=(2, 6, 7, 5)), jnp.float32)
    batch = {"segmentation": RNG.choice([0, 1, 255], (2, 6, 7)).astype(np.uint8), "valid": np.ones(2, bool)}
    total, _ = segmentation.loss(MODEL, {"out": logits}, arrays(batch), config)
    assert 0 < total < 10


def test_a_batch_of_ignored_pixels_alone_teaches_nothing(config):
    config.loss.update(aux_weight=0.4, dice_weight=3.0, class_weights=(1, 2, 3, 4, 5))
    batch = {"segmentation": np.full((2, 6, 7), 255, np.uint8), "valid": np.ones(2, bool)}
    batch["weight"] = np.full((2, 6, 7), 11, np.float32)

    def loss(logits):
        return segmentation.loss(MODEL, {"out": logits, "aux": 2 * logits}, arrays(batch), config)

    (total, scalars), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.array(RNG.normal(size=(2, 6, 7, 5))))
    assert total == 0 and scalars == {"pixel_accuracy": 0, "aux": 0} and not np.any(gradient)


def test_weights_of_median_frequency_are_the_papers(config):
    config.loss.class_weights = "median_frequency"

    class Two:
        classes = ("a", "b", "c")
        targets = property(lambda self: {"segmentation": self.classes})

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return {
                "segmentation": np.uint8([[0, 0, 0, 1], [0, 2, 2, 0]] if index else [[0, 0, 0, 0], [1, 1, 255, 255]])
            }

    resolved = segmentation.resolve(config, Two())
    frequency = np.array([9 / 14, 3 / 14, 2 / 8])
    np.testing.assert_allclose(resolved.loss.class_weights, np.median(frequency) / frequency)
    assert config.loss.class_weights == "median_frequency"
    Two.classes = ("a", "b", "c", "d")
    with pytest.raises(UserError, match="'median_frequency', but d has no pixel in train"):
        segmentation.resolve(config, Two())
    config.loss.class_weights = (1.0, 2.0)
    with pytest.raises(UserError, match="config.loss.class_weights has 2 numbers, .* 4 classes"):
        segmentation.resolve(config, Two())


def test_a_description_tells_the_classes_by_their_share():
    predictions = {"classes": np.full((1, 4, 6), 255, np.uint8), "original_size": np.array([[2, 4]])}
    predictions["classes"][0, :2, :4] = [[1, 1, 1, 0], [2, 1, 1, 1]]
    (found,) = segmentation.describe(predictions, 0, CLASSES).values()
    assert found == [
        {"class": "road", "share": 0.75},
        {"class": "ground", "share": 0.125},
        {"class": "sky", "share": 0.125},
    ]


@pytest.mark.parametrize("form", [as_accelerator, as_tpu])
def test_a_confusion_matrix_counts_each_pixel_once_and_none_that_is_ignored(form):
    found, true = (RNG.choice(each, (3, 7, 9)).astype(np.uint8) for each in ([0, 1, 2, 6], [0, 1, 5, 255]))
    expected = np.zeros((7, 7), int)
    np.add.at(expected, (true[true != 255], found[true != 255]), 1)
    with form():
        np.testing.assert_array_equal(ops.confusion(jnp.asarray(found), jnp.asarray(true), 7), expected)


def test_maps_reach_the_host_only_where_images_are_drawn_or_boundaries_compared(config, mesh_of):
    mesh, source = mesh_of(2), Pictures()
    step = make_eval_step(Colours(), segmentation, config, mesh)

    def predicted(*drawn):
        return list(predict(step, {}, source, config, mesh, Oddities(source, print), drawn=Drawn(*drawn)))

    few, whole = predicted(segmentation.only_drawn, (2,)), predicted()
    with_maps = [2 in batch.rows["id"] for batch in few]
    assert ["classes" in batch.rows for batch in few] == ["true" in batch.rows for batch in few] == with_maps
    assert sum(with_maps) == 1 < len(few)
    assert evaluate(segmentation, source, few) == evaluate(segmentation, source, whole)
    measured = segmentation.measured(config, 0.25)
    assert not measured.only_drawn and 0 <= evaluate(measured, source, whole)["boundary_f1"] <= 1


def brute_f1(found, true, k, radius):
    """Border by border and pixel by pixel."""

    def border(x):
        inside = np.zeros(x.shape, bool)
        for y, c in np.argwhere(x == k):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if 0 <= y + dy < x.shape[0] and 0 <= c + dx < x.shape[1]:
                    inside[y, c] |= x[y + dy, c + dx] not in (k, 255)
        return np.argwhere(inside)

    a, b = border(np.where(true == 255, 255, found)), border(true)
    if not len(a) and not len(b):
        return None
    if not len(a) or not len(b):
        return 0.0
    near = ((a[:, None] - b[None]) ** 2).sum(-1) <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("classes", [4, 70])
def test_boundary_f1_is_that_of_brute_force(classes):
    rng = np.random.default_rng(1)
    pair = []
    for _ in range(2):
        coarse = rng.choice([0, classes - 1, 2, 255], (12, 15), p=[0.4, 0.3, 0.2, 0.1])
        pair.append(coarse.repeat(20, 0).repeat(20, 1)[: 200 + 17, :280].astype(np.uint8))
    found = np.where(pair[0] == 255, 0, pair[1])
    found[found == 255] = 1
    true = np.roll(found, (2, 1), (0, 1))
    true[rng.random(true.shape) < 0.01] = 255
    true[50:100, 50:100] = pair[0][50:100, 50:100]
    result = boundaries.f1(found, true, classes)
    radius = max(1, round(0.0075 * np.hypot(*true.shape)))
    assert radius == 3
    for k in (0, 1, 2, classes - 1):
        expected = brute_f1(found, true, k, radius)
        assert result[1, k] == (expected is not None)
        assert result[0, k] == pytest.approx(expected or 0.0)
    if classes == 70:
        assert not result[:, 3:69].any()


def test_a_perfect_map_has_a_boundary_f1_of_1_and_none_without_borders():
    true = np.repeat(np.uint8([0, 1, 2]), 20)[None].repeat(30, axis=0)
    assert boundaries.f1(true, true, 4).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]
    assert not boundaries.f1(np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8), 4).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.resize": "fit"}, "config.data.resize is 'fit'"),
        ({"data.crop": (0, 5)}, "config.data.crop is .*a height and a width"),
        ({"data.scale": (2.0, 0.5)}, "config.data.scale"),
        ({"data.cat_max_ratio": 0.0}, "config.data.cat_max_ratio"),
        ({"data.window": (5,)}, "config.data.window"),
        ({"data.exact": "yes"}, "config.data.exact is 'yes'"),
        ({"eval_batch_size": -1}, "config.eval_batch_size is -1"),
        ({"data.view_scales": ()}, "config.data.view_scales"),
        ({"data.balanced": True}, "config.data.balanced"),
        ({"loss.name": "bce"}, "config.loss.name is 'bce'"),
        ({"loss.aux_weight": -1.0}, "config.loss.aux_weight"),
        ({"loss.class_weights": "balanced"}, "config.loss.class_weights"),
        ({"loss.name": "dice", "loss.dice_weight": 1.0}, "config.loss.dice_weight: the loss is Dice's already"),
        (
            {"loss.name": "lovasz", "loss.class_weights": (1, 2)},
            "config.loss.class_weights: lovasz has no use for it",
        ),
        ({"loss.name": "focal", "data.border_weight": 10.0}, "config.data.border_weight: focal has no use for it"),
        ({"best": "ap"}, "config.best is 'ap'"),
    ],
)
def test_what_makes_no_sense_is_refused(config, changes, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        check_config(config)


@pytest.mark.parametrize("fill", [-1, 0, 128])
def test_training_pads_with_the_grey_that_the_configuration_names(fill):
    """Before normalising, as torchvision, or with -1 zeros after it, as mmsegmentation; evaluation with zeros."""
    config = get_base("segmentation").augment
    config.fill = fill
    batch = {
        **{"image": np.full((1, 4, 6, 3), 200, np.uint8), "size": np.array([[3, 5]], np.int32)},
        **{"id": np.zeros(1, np.int32), "draw": np.zeros(1, np.int32)},
    }
    outside = np.ones((4, 6), bool)
    outside[:3, :5] = False
    found = np.asarray(segmentation.augment(jax.random.key(0), arrays(batch), config, 2)["image"])[0]
    expected = (fill / 255 - np.array(config.mean)) / np.array(config.std) if fill >= 0 else 0
    np.testing.assert_allclose(found[outside], np.broadcast_to(expected, (9, 3)), rtol=1e-5, atol=1e-6)
    assert not np.asarray(segmentation.normalise(arrays(batch), config))[0][outside].any()
