"""A trained model as one pure function: canvases of pixels in, named results out, and what is to be known of it.

    program(weights, images [B,H,W,3] (, sizes [B,2])) -> {name: array}

Pixels are RGB, uint8 (float32 of 0..255 for models of high-bit images), at the size of the network's input. They are
normalised inside, and the detector's or the segmenter's last step is inside too. Where images may be smaller than their
canvas they lie at its top left, and `sizes` are their heights and widths. What comes out is the task's `exports`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from morphism.runtime.digest import digest
from morphism.tasks.task import by_part
from morphism.weights.opening import trained_fields

Weights = dict[str, Any]  # path joined with slashes -> array
Program = Callable[..., dict[str, Array]]


@dataclass(frozen=True)
class Exported:
    """A model that can be written for other programs.

    program: as above. weights: its first argument. canvas: height and width of its images. batch: how many; 0: any.
    sized: whether it takes `sizes`. facts: what its file says of it, JSON values.
    """

    program: Program
    weights: Weights
    canvas: Size
    batch: int
    sized: bool
    dtype: Any
    facts: dict[str, Any]

    def shapes(self, batch: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Of the images, and of the sizes if it takes them; `batch` may be a symbol of JAX's."""
        images = jax.ShapeDtypeStruct((batch, *self.canvas, 3), self.dtype)
        sizes = jax.ShapeDtypeStruct((batch, 2), jnp.int32)
        return (images, sizes) if self.sized else (images,)


def export(run: Run, size: Size | None, batch: int) -> Exported:
    """The model of `run` for images on a canvas of `size`, or of its config's, `batch` at a time; 0: any number.

    Raises UserError for a size that the network cannot take.
    """
    canvas, program = size or default_canvas(run.config.data), _program(run)
    weights = flatten_dict(run.variables, sep="/")
    sized = has_margins(run.config.data)
    dtype = jnp.float32 if run.config.data.pixels == "float32" else jnp.uint8
    found = Exported(program, weights, canvas, batch, sized, dtype, {})
    outputs = _outputs(found, run)
    facts = _facts(run, found, outputs)
    return Exported(program, weights, canvas, batch, sized, dtype, facts)


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


def preparation(data: ConfigDict, canvas: Size) -> dict[str, Any]:
    """How an image becomes a canvas: the rule in words, its numbers by name."""
    height, width = canvas
    found = {"colours": "RGB, upright (EXIF orientation applied)", "canvas": [height, width]}
    if data.window_rule == "square":
        return found | {"resize": "shorter", "shorter": data.resize_size, "antialias": True, "crop": "center"}
    found |= {"resize": data.resize, "antialias": False, "place": "top left"}
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

    return program


def _outputs(exported: Exported, run: Run) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the results of one image. Raises UserError for a canvas that the network cannot take."""

    def traced(canvas: Size) -> dict[str, jax.ShapeDtypeStruct]:
        images, *sizes = exported.shapes(1)
        images = jax.ShapeDtypeStruct((1, *canvas, 3), images.dtype)
        return jax.eval_shape(exported.program, exported.weights, images, *sizes)

    height, width = exported.canvas
    name = run.config.model.name
    try:
        return traced(exported.canvas)
    except UserError as error:
        reason = str(error).partition(";")[0]
        raise UserError(f"--size={height}x{width}: {reason}; try --size={_rounded(exported.canvas)}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"--size={height}x{width}: {name} cannot take such images; try --size={_rounded(exported.canvas)}"
        ) from error


def _rounded(canvas: Size) -> str:
    return "x".join(str(max(1, -(-side // STEP)) * STEP) for side in canvas)


def _facts(run: Run, exported: Exported, outputs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    config, batch = run.config, exported.batch or "batch"

    def described(shape: tuple[int, ...], dtype: Any, meaning: str) -> dict[str, Any]:
        return {"shape": [batch, *shape[1:]], "dtype": np.dtype(dtype).name, "meaning": meaning}

    meanings = (
        "pixels, RGB, of 0 to 255",
        "[B,2], height and width of the image at the top left of each canvas",
    )
    inputs = {
        name: described(each.shape, each.dtype, meaning)
        for name, each, meaning in zip(("images", "sizes"), exported.shapes(1), meanings, strict=False)
    }
    return {
        "morphism": morphism.__version__,
        "task": run.task.name,
        "model": config.model.name,
        "classes": {part: list(names) for part, names in by_part(run.classes).items()}
        if isinstance(run.classes, Mapping)
        else list(run.classes),
        "inputs": inputs,
        "outputs": {name: described(x.shape, x.dtype, run.task.exports[name]) for name, x in outputs.items()},
        "preparation": preparation(config.data, exported.canvas),
        "normalisation": {
            "mean": list(config.augment.mean),
            "std": list(config.augment.std),
            "where": "inside: pixel / 255, minus mean, divided by std",
        },
        "origin": run.name,
        "digest": digest({"batch_stats": {}} | run.variables),
        "config": trained_fields(config),
    }
