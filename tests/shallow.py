"""Networks as small as their kind can be: architectures that differ in these numbers alone run the same code."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from morphism import models
from morphism.models import resnet

SHALLOW = {"layers": (1, 1, 1, 1), "depth": {"YOLOX": 0.33, "VGG": 11, "CifarResNet": 8}, "width_per_group": 64}
SHALLOW |= {"backbone": "resnet50", "groups": 32, "width": {"YOLOX": 0.25}}


def shallow(name: str) -> dict[str, Any]:
    """The options that make an architecture as small as its kind can be."""
    constructor = partial(models.models()[name])
    found = {}
    for field, default in models.options(name).items():
        value = SHALLOW.get(field)
        value = value.get(constructor.func.__name__) if isinstance(value, dict) else value
        if value is not None and not (field == "groups" and default == 1):
            found[field] = value
    return found


@contextmanager
def shallow_backbones() -> Iterator[None]:
    """Inside it, ResNets that are parts of other networks have one block a stage."""
    with pytest.MonkeyPatch.context() as patch:
        for name, make in resnet.MODELS.items():
            patch.setitem(resnet.MODELS, name, partial(make, layers=SHALLOW["layers"]))
        yield
