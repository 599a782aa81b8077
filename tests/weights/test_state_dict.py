"""A text stands for a tensor here."""

import pytest

from morphism.errors import UserError
from morphism.weights.state_dict import choose, unwrapped

RAW = {"a": "1", "b": "1"}
EMA = {"a": "2", "b": "2"}


@pytest.mark.parametrize(
    ("content", "expected", "note"),
    {
        "a state dict": (RAW, RAW, ""),
        "with what is none": ({**RAW, "epoch": 3}, RAW, ""),
        "torchvision": ({"model": RAW, "optimizer": {"state": {}}, "epoch": 3}, RAW, ""),
        "timm": (
            {"state_dict": RAW, "state_dict_ema": EMA},
            EMA,
            "the averaged weights in state_dict_ema are used",
        ),
        "another order": ({"model_ema": EMA, "model": RAW}, EMA, "in model_ema are used, not model"),
        "averaged, wrapped": (
            {"model": RAW, "model_ema": {"n_averaged": "5", "module.a": "2", "module.b": "2"}},
            {"n_averaged": "5", "module.a": "2", "module.b": "2"},
            "model_ema",
        ),
        "averaged in part": (
            {"model": RAW, "model_ema": {"a": "2"}},
            RAW,
            "the weights in model are used, not model_ema (model_ema lacks 1 of its tensors, such as b)",
        ),
        "averaged alone": ({"model_ema": EMA}, EMA, ""),
        "averaged within": ({"model": RAW, "ema": {"module": EMA, "updates": 7}}, EMA, "in ema.module are used"),
        "an average's settings": ({"model": RAW, "ema": {"decay": 0.9}}, RAW, ""),
        "in one another": ({"model": {"state_dict": RAW}}, RAW, ""),
        "under two names": (
            {"state_dict": RAW, "model": EMA},
            RAW,
            "the weights in state_dict are used, not model",
        ),
        "pytorch-cifar": ({"net": RAW, "acc": "71.2", "epoch": 3}, RAW, ""),
        "a name of its own": ({"my_net": RAW, "acc": "71.2"}, RAW, "the tensors are read from my_net"),
        "one dict twice": ({"my_net": RAW, "same": RAW}, RAW, "the tensors are read from my_net"),
        "next to an optimiser's": ({"my_net": RAW, "optimizer_g": {"x": "1", "y": "1", "z": "1"}}, RAW, "my_net"),
        "with a buffer apart": ({**RAW, "extra": {"x": "1"}}, RAW, ""),
    }.values(),
)
def test_the_models_tensors_are_found(content, expected, note):
    found = choose(content, str)
    assert found.tensors == expected
    assert bool(found.notes) == bool(note) and note in "; ".join(found.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"generator": RAW, "discriminator": EMA},
            "several parts with tensors: generator, discriminator; load it in to",
        ),
        ({"epoch": 3, "model": {}}, "no state dict in it, but epoch, model; a model's tensors are looked for"),
        ([RAW], "no state dict in it, but one list"),
        ({}, "no state dict in it, but nothing"),
    ],
)
def test_what_is_not_known_is_asked(content, message):
    with pytest.raises(UserError, match=message):
        choose(content, str)


def test_a_dict_that_holds_itself_has_an_end():
    circle = {"epoch": 3}
    circle["model"] = circle["state_dict"] = circle
    with pytest.raises(UserError, match="no state dict"):
        choose(circle, str)
    circle["net"] = RAW
    assert choose(circle, str).tensors == RAW


@pytest.mark.parametrize(
    ("names", "expected", "prefix"),
    [
        (["a.weight", "b"], ["a.weight", "b"], ""),
        (["module.a", "module.b"], ["a", "b"], "module."),
        (["_orig_mod.a"], ["a"], "_orig_mod."),
        (["model.a", "model.b"], ["a", "b"], "model."),
        (["module._orig_mod.a", "module._orig_mod.b"], ["a", "b"], "module._orig_mod."),
        (["model._orig_mod.module.a"], ["a"], "model._orig_mod.module."),
        (["n_averaged", "module.a", "module.b"], ["a", "b"], "module."),
        (["module.a", "b"], ["module.a", "b"], ""),
        (["n_averaged", "a"], ["n_averaged", "a"], ""),
        ([], [], ""),
    ],
)
def test_wrappers_prefixes_are_left_out_where_all_names_have_them(names, expected, prefix):
    found, removed = unwrapped(names)
    assert (list(found.values()), removed) == (expected, prefix)
