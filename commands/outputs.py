"""A model's raw outputs for given arrays, for comparison with another implementation.

    morphism outputs --config experiments/imagenet_resnet.py:50 --weights FILE --inputs in.npz --outputs out.npz

FILE is as for --weights of `morphism eval`. in.npz holds `images`, float32 [B,H,W,3], already normalised: they are used
as they are, in one batch, with float32 products at full precision. out.npz holds what the model returns in evaluation:
"logits" if that is one array, else each array by its name, "a.b" if nested. For a detector it also holds the final
boxes, scores, classes and valid, without a margin around the images, and intermediate results such as the proposals,
proposal_scores and proposal_valid of two stages. With --features it holds a backbone's maps, [B,h,w,C], by name. The
number of classes is that of the weights' head, or that of config.data.source if they have none. The model of a public
checkpoint has the options that it was trained with.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command(config="flag", distributed=True)
_WEIGHTS = COMMAND.string("weights", None, "A file (.safetensors, .pth), torchvision:<name>/<weights>, or a run.")
_INPUTS = COMMAND.string("inputs", None, "An .npz file that holds images, float32 [B,H,W,3].")
_OUTPUTS = COMMAND.string("outputs", None, "The .npz file to write.")
_FEATURES = COMMAND.boolean("features", False, "The backbone's feature maps instead of the outputs.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}")
    for flag in (_WEIGHTS, _INPUTS, _OUTPUTS):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; see morphism outputs --help")
    config = COMMAND.config.value
    COMMAND.start_jax()
    from morphism import models, tasks
    from morphism.data import sources
    from morphism.runtime.mesh import AXIS
    from morphism.runtime.validation import check_config
    from morphism.tasks.task import by_part, counted, counts
    from morphism.weights.opening import classes_of, read_weights, variables_from, with_options

    check_config(config)
    images = read_images(Path(_INPUTS.value))
    weights = read_weights(_WEIGHTS.value, print)
    config = with_options(config, weights, COMMAND.config.overrides)
    classes = classes_of(weights, config)
    if None in by_part(classes).values():
        classes = counts(tasks.of(config).class_names(sources.Classes(config.data)))
    variables, notes = variables_from(weights, config, classes)
    model = models.create(config.model, classes, AXIS)
    if _FEATURES.value and not model.has_features:
        raise UserError(f"--features: {config.model.name} is no backbone and has no feature maps; leave it out")
    named = outputs_of(model, variables, images, features=_FEATURES.value)
    try:
        with Path(_OUTPUTS.value).open("wb") as file:
            np.savez(file, **named)
    except OSError as error:
        raise UserError(f"{_OUTPUTS.value}: cannot be written ({error.strerror}); name another as --outputs") from error
    for note in notes:
        print(note)
    print(f"{weights.origin}, {counted(classes)}, on {len(images)} images:")
    for name, array in named.items():
        print(f"  {name:<20}{array.dtype} {list(array.shape)}")
    print(f"  in {_OUTPUTS.value}")


def outputs_of(
    model: Any, variables: dict[str, Any], images: Float[np.ndarray, "b h w 3"], features: bool
) -> dict[str, np.ndarray]:
    """The model's outputs by their names, or its feature maps; for a Detector also its detections."""
    import jax

    from morphism import models
    from morphism.models.detection import Detector
    from morphism.runtime.mesh import compiler_options

    sizes = np.tile(np.int32(images.shape[1:3]), (len(images), 1))
    options = {"features": True} if features else {}

    def forward(variables, images):
        outputs = model.apply(variables, images, train=False, **models.inputs(model, {"size": sizes}), **options)
        return outputs | model.detect(outputs, sizes) if isinstance(model, Detector) and not features else outputs

    with jax.default_matmul_precision("highest"):
        outputs = jax.jit(forward, compiler_options=compiler_options())(variables, images)
    leaves = jax.tree_util.tree_leaves_with_path(outputs)
    return {jax.tree_util.keystr(path, simple=True, separator=".") or "logits": np.asarray(x) for path, x in leaves}


def read_images(path: Path) -> Float[np.ndarray, "b h w 3"]:
    """The array `images` of an .npz. Raises UserError where there is none, or if its type or shape is another."""
    try:
        with np.load(path) as file:
            images = file["images"]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # NumPy, zipfile and pickle raise many kinds for a broken file
        raise UserError(f"{path}: no .npz with `images` ({error})") from error
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.float32:
        raise UserError(f"{path}: images are {images.dtype} {list(images.shape)}; give float32 [B,H,W,3]")
    return images
