"""A trained model as one pure function: canvases of pixels in, named results out, and what is to be known of it.

    program(weights, images [B,H,W,3] (, sizes [B,2])) -> {name: array}

Pixels are RGB, uint8 (float32 of 0..255 for models of high-bit images), at the size of the network's input. They are
normalised inside, and the detector's or the segmenter's last step is inside too. Where images may be smaller than their
canvas they lie at its top left, and `sizes` are their heights and widths. What comes out is the task's `exports`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array
from ml_collections import ConfigDict

import morphism
from morphism import models
from morphism.data.canvases import STEP, listed
from morphism.data.windows import Size
from morphism.errors import UserError
from morphism.evaluation.run import Run
from morphism.runtime.arithmetic import at_precision
from morphism.runtime.digest import digest
from morphism.weights.opening import trained_fields

Weights = dict[str, Any]  # path joined with slashes -> array
Program = Callable[..., dict[str, Array]]


@dataclass(frozen=True)
class Exported:
    """A model that can be written for other programs.

    program, weights: as above; weights are its first argument.
    canvas: height and width of its images in pixels.
    batch: images per call; 0: any number.
    dtype: of the pixels.
    sized: whether it takes `sizes`.
    facts: what its file says of it, JSON values.
    """

    program: Program
    weights: Weights
    canvas: Size
    batch: int
    dtype: Any
    sized: bool
    facts: dict[str, Any]

    def inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """The program's arguments after the weights, by name; `batch` may be a symbol of JAX's."""
        images = jax.ShapeDtypeStruct((batch, *self.canvas, 3), self.dtype)
        sizes = jax.ShapeDtypeStruct((batch, 2), jnp.int32)
        return {"images": images, "sizes": sizes} if self.sized else {"images": images}


def export(run: Run, size: Size | None = None, batch: int = 0) -> Exported:
    """The model of `run` for images on a canvas of `size`, or of its config's, `batch` at a time; 0: any number.

    Raises UserError for a size that the network cannot take.
    """
    data = run.config.data
    found = Exported(
        program=_program(run),
        weights=flatten_dict(run.variables, sep="/"),
        canvas=size or default_canvas(data),
        batch=batch,
        dtype=jnp.float32 if data.pixels == "float32" else jnp.uint8,
        sized=has_margins(data),
        facts={},
    )
    return replace(found, facts=_facts(run, found, _outputs(found, run.config.model.name)))


def default_canvas(data: ConfigDict) -> Size:
    """The canvas that `data`, config.data, evaluates most images on: the crop, or the first that it lists."""
    if data.window_rule == "crop" and not data.canvases:
        return tuple(data.crop)
    if data.window_rule == "square":
        return (data.eval_size or data.image_size,) * 2
    return tuple(data.canvases[0]) if data.canvases else listed(data)[0]


def has_margins(data: ConfigDict) -> bool:
    """Whether images may be smaller than their canvas."""
    return data.window_rule != "square" and data.resize != "stretch"


def preparation(config: ConfigDict, canvas: Size) -> dict[str, Any]:
    """How a decoded image becomes a canvas, as evaluation makes it (data/windows.py)."""
    data, fields = config.data, trained_fields(config)
    found = {"colours": "RGB, upright (EXIF orientation applied)", "canvas": list(canvas), "filter": "bilinear"}
    if data.window_rule == "square":
        return found | {"resize": "shorter", "shorter": data.resize_size, "antialias": True, "then": "central crop"}
    found |= {"resize": data.resize, "antialias": bool(fields.get("data.antialias")), "then": "to the top left"}
    if data.resize == "shorter":
        found |= {"shorter": data.image_size, "longer_at_most": data.max_size}
    return found


def _program(run: Run) -> Program:
    model, task, config = run.model, run.task, run.config

    def program(weights: Weights, images: Array, sizes: Array | None = None) -> dict[str, Array]:
        variables, batch_size = unflatten_dict(weights, sep="/"), images.shape[0]
        if sizes is None:
            sizes = jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32), (batch_size, 2))
        batch = {"image": images, "size": sizes, "original_size": sizes}
        batch |= {name: jnp.zeros((batch_size,), jnp.int32) for name in ("id", "draw")}
        batch |= {name: jnp.ones((batch_size,), bool) for name in ("valid", *(f"has_{each}" for each in task.targets))}

        def apply(images: Array, batch: dict[str, Array]) -> Any:
            return model.apply(variables, images, train=False, **models.inputs(model, batch))

        outputs = task.infer(apply, task.normalise(batch, config.augment), batch, config.data, "center")
        found = task.exported(model, outputs, batch)
        return {name: found[name] for name in task.exports}

    return at_precision(program, config.precision)


def _outputs(exported: Exported, name: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the results of one image. Raises UserError for a canvas that the network `name` cannot take."""
    height, width = exported.canvas
    remedy = "try --size=" + "x".join(str(-(-side // STEP) * STEP) for side in exported.canvas)
    try:
        return jax.eval_shape(exported.program, exported.weights, *exported.inputs(1).values())
    except UserError as error:
        raise UserError(f"--size={height}x{width}: {str(error).partition(';')[0]}; {remedy}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"--size={height}x{width}: {name} cannot take such images; {remedy}") from error


def _facts(run: Run, exported: Exported, outputs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    augment, classes, batch = run.config.augment, run.classes, exported.batch or "batch"

    def described(x: jax.ShapeDtypeStruct, meaning: str) -> dict[str, Any]:
        return {"shape": [batch, *x.shape[1:]], "dtype": np.dtype(x.dtype).name, "meaning": meaning}

    meanings = {
        "images": "[B,H,W,3], RGB, 0 to 255, as `preparation` makes them",
        "sizes": "[B,2], height and width of the image at the top left of each canvas",
    }
    return {
        "task": run.task.name,
        "model": run.config.model.name,
        "classes": {part: list(names) for part, names in classes.items()}
        if isinstance(classes, Mapping)
        else list(classes),
        "inputs": {name: described(x, meanings[name]) for name, x in exported.inputs(1).items()},
        "outputs": {name: described(outputs[name], meaning) for name, meaning in run.task.exports.items()},
        "preparation": preparation(run.config, exported.canvas),
        "normalisation": {"mean": list(augment.mean), "std": list(augment.std), "where": "inside, of pixels / 255"},
        "origin": run.name,
        "digest": digest({"batch_stats": {}} | run.variables),
        "morphism": morphism.__version__,
        "config": trained_fields(run.config),
    }
