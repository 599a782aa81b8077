import hashlib
import json
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.models.layers import conv
from morphism.runtime.mesh import AXIS
from morphism.weights.convert import (
    check_finite,
    classes_in,
    fit,
    from_torch,
    head,
    rename,
    to_torch,
    torch_shapes,
    without_wrapper,
)

CONFIG = ConfigDict(
    dict(name="resnet18", dtype="float32", remat=False, sync_bn=False, frozen_bn=False, options=ConfigDict())
)


def shapes_of(classes, config=CONFIG):
    model = models.create(config, classes, AXIS)
    return torch_shapes(jax.eval_shape(lambda: models.init(model, jax.random.key(0), 64)))


def tensors_of(classes, config=CONFIG):
    return {name: np.zeros(shape, np.float32) for name, shape in shapes_of(classes, config).items()}


def test_every_kind_of_array_gets_torchs_name_and_layout():
    variables = {
        "params": {
            "features.0": {"kernel": np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5), "bias": np.arange(5.0)},
            "fc": {"kernel": np.arange(6.0).reshape(2, 3)},
            "up.1": {"transposed_kernel": np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)},
            "backbone": {"scale_weight": np.arange(4.0), "bn1": {"scale": np.arange(4.0), "bias": np.arange(4.0)}},
        },
        "batch_stats": {"backbone": {"bn1": {"mean": np.arange(4.0), "var": np.arange(4.0)}}},
    }
    tensors = to_torch(variables)
    assert {name: x.shape for name, x in tensors.items()} == {
        "features.0.weight": (5, 4, 2, 3),
        "features.0.bias": (5,),
        "fc.weight": (3, 2),
        "up.1.weight": (4, 5, 2, 3),
        "backbone.scale_weight": (4,),
        "backbone.bn1.weight": (4,),
        "backbone.bn1.bias": (4,),
        "backbone.bn1.running_mean": (4,),
        "backbone.bn1.running_var": (4,),
        "backbone.bn1.num_batches_tracked": (),
    }
    assert tensors["features.0.weight"][4, 3, 1, 2] == variables["params"]["features.0"]["kernel"][1, 2, 3, 4]
    assert tensors["up.1.weight"][3, 4, 1, 2] == variables["params"]["up.1"]["transposed_kernel"][1, 2, 3, 4]
    assert tensors["backbone.bn1.num_batches_tracked"] == 0
    assert tensors["backbone.bn1.num_batches_tracked"].dtype == np.int64
    back = from_torch(tensors, variables)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


STATE_DICTS = json.loads((Path(__file__).parent.parent / "goldens" / "state_dicts.json").read_text())


@pytest.mark.parametrize("name", STATE_DICTS)
def test_a_network_is_written_with_all_that_torchvisions_holds_and_no_more(name):
    """Which is what load_state_dict(strict=True) asks for; goldens/make_state_dicts.py asked torchvision."""
    config = CONFIG.copy_and_resolve_references()
    config.name = name
    model = models.create(config, 1000, AXIS)
    like = jax.eval_shape(lambda: models.init(model, jax.random.key(0), 64))
    tensors = to_torch(jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), like))
    lines = "".join(f"{key} {tuple(value.shape)}\n" for key, value in sorted(tensors.items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == STATE_DICTS[name]


def test_a_grouped_convolution_is_torchs_sum_written_out():
    weight = np.random.default_rng(0).standard_normal((6, 2, 3, 3))  # 3 groups of 2 channels, to 2 each
    x = np.random.default_rng(1).standard_normal((1, 3, 3, 6))
    layer = conv(6, 3, groups=3, pad=0, dtype=jnp.float32, name="conv")
    variables = from_torch({"weight": weight}, jax.eval_shape(lambda: layer.init(jax.random.key(0), x)))
    for out in range(6):
        first = out // 2 * 2
        expected = sum(np.sum(weight[out, c] * x[0, :, :, first + c]) for c in range(2))
        np.testing.assert_allclose(layer.apply(variables, x)[0, 0, 0, out], expected, rtol=1e-5)


def test_frozen_norms_have_the_names_of_trained_ones():
    frozen = CONFIG.copy_and_resolve_references()
    frozen.frozen_bn = True
    assert shapes_of(10, frozen) == shapes_of(10)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet18", {"fc.weight", "fc.bias"}), ("vgg11", {"classifier.6.weight", "classifier.6.bias"})],
)
def test_the_head_is_found_by_what_the_number_of_classes_changes(name, expected):
    config = CONFIG.copy_and_resolve_references()
    config.name = name
    assert head(lambda classes: shapes_of(classes, config)) == expected


class BoxHead(nn.Module):
    """As Faster R-CNN's: a logit a class and one for the background, four numbers a class and background."""

    classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes + 1, name="cls_score")(x), nn.Dense(4 * self.classes + 4, name="bbox_pred")(x)


def test_the_number_of_classes_is_read_from_the_head():
    assert classes_in(tensors_of(37), shapes_of) == 37
    assert classes_in({"conv1.weight": tensors_of(37)["conv1.weight"]}, shapes_of) is None

    def of_boxes(classes):
        return torch_shapes(jax.eval_shape(lambda: BoxHead(classes).init(jax.random.key(0), jnp.zeros((1, 8)))))

    made_for_90 = {name: np.zeros(shape) for name, shape in of_boxes(90).items()}
    for name in head(of_boxes):
        assert classes_in({name: made_for_90[name]}, of_boxes) == 90


def test_a_head_of_other_classes_is_left_out_whole_and_said():
    taken, (note,) = fit(tensors_of(10), shapes_of(7), "w.pth", replaceable=head(shapes_of))
    assert set(shapes_of(7)) - set(taken) == {"fc.weight", "fc.bias"}
    assert note == "w.pth: fc.bias is [10] there and [7] here, so the head starts untrained: fc.bias, fc.weight"
    taken, notes = fit(tensors_of(7), shapes_of(7), "w.pth", replaceable=head(shapes_of))
    assert set(taken) == set(shapes_of(7)) and notes == []


def test_what_does_not_fit_is_named():
    tensors = tensors_of(10)
    tensors["stray.weight"] = tensors.pop("conv1.weight")
    tensors["bn1.weight"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        fit(tensors, shapes_of(10), "w.pth")
    assert str(error.value).startswith(
        "w.pth: does not fit: it lacks conv1.weight; the model has no stray.weight; bn1.weight is [3] there and [64] in"
    )
    with pytest.raises(UserError, match=r"bn1.weight is \[3\] there"):
        fit(tensors, shapes_of(10), "w.pth", allow_missing=(".*",), allow_unexpected=(".*",), replaceable={"fc.weight"})


def test_what_may_be_missing_or_unexpected_is_left_out_and_said():
    tensors = tensors_of(10)
    tensors["stray.weight"] = tensors.pop("conv1.weight")
    allowed = {"allow_missing": (r"conv1\..*",), "allow_unexpected": (r"stray\.weight", "no")}
    taken, notes = fit(tensors, shapes_of(10), "w.pth", **allowed)
    assert "stray.weight" not in taken and len(taken) == len(tensors) - 1
    assert notes == ["w.pth: without conv1.weight, which start untrained", "w.pth: stray.weight not used"]
    with pytest.raises(UserError, match=re.escape("config.init_allow_missing: '(' is no regular expression")):
        fit(tensors, shapes_of(10), "w.pth", allow_missing=("(",))
    with pytest.raises(UserError, match=re.escape("config.init_allow_unexpected: '(' is no regular expression")):
        fit(tensors_of(10), shapes_of(10), "w.pth", allow_unexpected=("(",))  # though nothing is unexpected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_is_named_where_the_model_takes_it(bad):
    tensors = {"a.weight": np.zeros((2, 3)), "b.running_var": np.ones(4, np.int64), "stray": np.full(2, np.nan)}
    shapes = {"a.weight": (2, 3), "b.running_var": (4,)}
    taken, _ = fit(tensors, shapes, "w.pth", allow_unexpected=("stray",))
    assert set(taken) == set(shapes)
    tensors["a.weight"][1, 2] = tensors["a.weight"][0, 1] = bad
    with pytest.raises(
        UserError, match=r"^w.pth: a.weight is not finite in 2 of 6 values, the first at \[0, 1\]; its tr"
    ):
        fit(tensors, shapes, "w.pth", allow_unexpected=("stray",))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16, np.complex64])
def test_what_is_not_finite_is_seen_in_every_type_and_where_it_is_repeated(dtype):
    check_finite(
        {"a": np.zeros((3, 4), dtype), "empty": np.zeros((0, 4), dtype), "number": np.zeros((), dtype)}, "w.pth"
    )
    for values in (np.array([0, np.nan], dtype), np.array(np.inf, dtype)):
        with pytest.raises(UserError, match="w.pth: a is not finite"):
            check_finite({"a": np.broadcast_to(values, (1000, *values.shape))}, "w.pth")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_, ml_dtypes.float8_e4m3fn, np.complex64])
def test_weights_of_a_type_that_loses_their_values_are_refused_where_the_model_takes_them(dtype):
    tensors = {"a": np.ones(2, np.float16), "b": np.ones(3, dtype)}
    assert set(fit(tensors, {"a": (2,)}, "w.pth", allow_unexpected=("b",))[0]) == {"a"}
    with pytest.raises(UserError, match="^w.pth: b is of type .*save the weights as float32, float16 or bfloat16"):
        fit(tensors, {"a": (2,), "b": (3,)}, "w.pth")


def test_weights_of_which_nothing_fits_are_refused_whatever_may_differ():
    with pytest.raises(
        UserError, match=r"^w.pth: nothing of it fits: its names are x.weight, the model's are a, b; translate"
    ):
        fit({"x.weight": np.zeros(1)}, {"a": (1,), "b": (2,)}, "w.pth", allow_missing=(".*",), allow_unexpected=(".*",))
    with pytest.raises(UserError, match="w.pth: nothing of it fits: its names are none"):
        fit({}, {"a": (1,)}, "w.pth", allow_missing=(".*",))


def test_a_rule_for_a_prefix_that_reading_left_out_still_works():
    tensors = {"conv1.weight": np.zeros(1), "fc.bias": np.zeros(1)}
    assert set(rename(tensors, (r"^model\. -> ",), "w.pth")) == set(tensors)
    assert set(rename(tensors, (r"^module\.conv -> body.conv",), "w.pth")) == {"body.conv1.weight", "fc.bias"}


def test_a_prefix_that_some_names_have_is_left_out_where_the_model_has_the_rest():
    tensors = {"model.conv1.weight": np.zeros(1), "model.fc.bias": np.zeros(1), "criterion.weight": np.zeros(1)}
    found, prefix = without_wrapper(tensors, {"conv1.weight": (1,), "fc.bias": (1,)})
    assert (set(found), prefix) == ({"conv1.weight", "fc.bias", "criterion.weight"}, "model.")
    assert without_wrapper(tensors, {"model.conv1.weight": (1,)}) == (tensors, "")
    assert without_wrapper(tensors | {"fc.bias": np.zeros(1)}, {"conv1.weight": (1,)})[1] == ""


def test_names_are_changed_by_rules():
    tensors = {name: np.zeros(1) for name in ("layer1.0.conv1.weight", "conv1.weight", "fc.bias")}
    tensors["bn1.num_batches_tracked"] = np.zeros(())
    found = rename(tensors, (r"^(layer\d|conv1)\. -> backbone.body.\1.", "fc->head"), "w.pth")
    assert set(found) == {"backbone.body.layer1.0.conv1.weight", "backbone.body.conv1.weight", "head.bias"}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("nothing -> x", "changes no name of w.pth"),
        ("conv1", "changes no name of w.pth"),
        ("( -> x", "no regular expression"),
        (r"conv1 -> \2", "no regular expression"),
        (r"^.* -> same", "more than one tensor of w.pth becomes same"),
    ],
)
def test_a_rule_that_cannot_work_is_named(rule, message):
    with pytest.raises(UserError, match=message):
        rename({"conv1.weight": np.zeros(1), "fc.bias": np.zeros(1)}, (rule,), "w.pth")
