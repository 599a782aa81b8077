"""Converts between Flax variables and torch's state dicts: by name and layout alone, the same for every architecture.

A submodule has the name that its reference gives it, so a path joined with dots is torch's name except for its last
part. LAYOUTS translates that part, together with the order of the axes. An array that is not listed there has torch's
name and layout.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np

from morphism.errors import UserError, one_line
from morphism.weights.state_dict import WRAPPERS

Variables = dict[str, Any]  # {"params": ..., "batch_stats": ...}, of arrays or of their shapes
Shapes = dict[str, tuple[int, ...]]
Tensors = Mapping[str, np.ndarray]  # torch's name -> array in torch's layout

LAYOUTS = {  # (our name, number of axes) -> torch's name, and for each of torch's axes its index in ours
    ("kernel", 4): ("weight", (3, 2, 0, 1)),  # convolution, also grouped: [h,w,in,out] here, [out,in,h,w] in torch
    ("kernel", 2): ("weight", (1, 0)),  # dense: [in,out] here, [out,in] in torch
    ("transposed_kernel", 4): ("weight", (2, 3, 0, 1)),  # ConvTranspose2d: [h,w,in,out] here, [in,out,h,w] in torch
    ("scale", 1): ("weight", (0,)),  # of a norm
    ("mean", 1): ("running_mean", (0,)),
    ("var", 1): ("running_var", (0,)),
}
COUNTER = "num_batches_tracked"  # torch's count of the batches a norm has seen, which only momentum=None reads


def to_torch(variables: Variables) -> dict[str, np.ndarray]:
    """Torch's name -> array in torch's layout; each norm's batch counter, 0, is added to its running statistics."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name, axes = _layout(path, leaf)
        found[name] = np.transpose(np.asarray(leaf), axes)
        if name.endswith("running_var"):
            found[name.removesuffix("running_var") + COUNTER] = np.zeros((), np.int64)
    return found


def torch_shapes(variables: Variables) -> Shapes:
    """Torch's name -> shape of every array, without the norms' counters."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    layouts = [(*_layout(path, leaf), leaf.shape) for path, leaf in leaves]
    return {name: tuple(shape[axis] for axis in axes) for name, axes, shape in layouts}


def from_torch(tensors: Tensors, like: Variables) -> Variables:
    """`like` with the values of `tensors`, cast to the types of `like`; an array that `tensors` lacks is kept."""

    def take(path: tuple, leaf: Any) -> Any:
        name, axes = _layout(path, leaf)
        if name not in tensors:
            return leaf
        return np.asarray(np.transpose(tensors[name], np.argsort(axes)), leaf.dtype, order="C")

    return jax.tree_util.tree_map_with_path(take, like)


def rename(tensors: Tensors, rules: tuple[str, ...], origin: str) -> dict[str, np.ndarray]:
    """Applies the rules "pattern -> replacement" to all names in turn, as re.sub does, and drops the norms' counters.

    A rule may also be written for names with a prefix that reading removed, such as "model.".
    Raises UserError for a malformed rule, for a rule that changes no name, and if two names become the same.
    """
    renamed = {name: name for name in tensors if name.rpartition(".")[2] != COUNTER}
    for rule in rules:
        pattern, arrow, replacement = (part.strip() for part in str(rule).partition("->"))
        try:
            after = next(_renamings(renamed, pattern, replacement), None)
        except (re.error, IndexError) as error:
            raise UserError(f"config.init_rename: {rule!r} is no regular expression ({error})") from error
        if not arrow or after is None:
            raise UserError(
                f"config.init_rename: {rule!r} changes no name of {origin}; write 'pattern -> replacement' for names "
                f"such as {', '.join(list(tensors)[:3])}"
            )
        renamed = after
    found = {now: tensors[name] for name, now in renamed.items()}
    if len(found) < len(renamed):
        twice = next(now for now in found if list(renamed.values()).count(now) > 1)
        raise UserError(
            f"config.init_rename: more than one tensor of {origin} becomes {twice}; make the rules narrower"
        )
    return found


def _renamings(names: Mapping[str, str], pattern: str, replacement: str) -> Iterator[dict[str, str]]:
    """`names` after the rule: first without a prefix, then with each of WRAPPERS; only where the rule changes some."""
    for prefix in ("", *WRAPPERS):
        found = {name: re.sub(pattern, replacement, prefix + now) for name, now in names.items()}
        if any(after != prefix + names[name] for name, after in found.items()):
            yield {name: names[name] if after == prefix + names[name] else after for name, after in found.items()}


def without_wrapper(tensors: Tensors, shapes: Shapes) -> tuple[Tensors, str]:
    """Removes the prefix of WRAPPERS whose removal makes the most names match `shapes`, if more than now.

    Lightning's state dicts may hold "criterion.weight" next to "model.conv1.weight".
    Returns: the tensors and the removed prefix, or "".
    """

    ways = {prefix: {name.removeprefix(prefix): x for name, x in tensors.items()} for prefix in WRAPPERS}
    whole = {prefix: found for prefix, found in ways.items() if len(found) == len(tensors)}
    met = {prefix: len(found.keys() & shapes.keys()) for prefix, found in whole.items()}
    best = max(met, key=met.get, default="")
    return (ways[best], best) if met and met[best] > len(tensors.keys() & shapes.keys()) else (tensors, "")


def check_finite(tensors: Tensors, origin: str) -> None:
    """Raises UserError naming the first array with a value that is not finite in float32."""
    for name, tensor in tensors.items():
        bad = _not_finite(tensor)
        if bad.any():
            first = ", ".join(str(index) for index in np.unravel_index(bad.argmax(), bad.shape))
            raise UserError(
                f"{origin}: {name} is not finite in {bad.sum():,} of {bad.size:,} values, the first at [{first}]; its "
                "training diverged, or half precision overflowed: take weights from before that"
            )


def _check_types(tensors: Tensors, origin: str) -> None:
    """Raises UserError naming the first array that is quantised or complex: a cast to float would change its values."""
    for name, tensor in tensors.items():
        if tensor.dtype.itemsize == 1 or tensor.dtype.kind == "c":
            raise UserError(
                f"{origin}: {name} is of type {tensor.dtype}, whose scale or imaginary part would be lost; save the "
                "weights as float32, float16 or bfloat16"
            )


def _not_finite(tensor: np.ndarray) -> np.ndarray | np.bool_:
    """Whether each value is not finite in float32; an axis of stride 0, as expanded tensors have, counts once."""
    values = tensor[tuple(slice(1) if stride == 0 else slice(None) for stride in tensor.strides)]
    if tensor.dtype.kind in "biuc":
        return ~np.isfinite(values)
    with np.errstate(over="ignore", invalid="ignore"):
        return ~np.isfinite(values.astype(np.float32, copy=False))


def head(shapes_of: Callable[[int], Shapes]) -> set[str]:
    """The names of the arrays that depend on the number of classes; `shapes_of`: number of classes -> shapes.

    Arrays that exist for some numbers only count as well: a model may have one array per class.
    """
    two, three = shapes_of(2), shapes_of(3)
    return {name for name in two.keys() | three.keys() if two.get(name) != three.get(name)}


def classes_in(tensors: Tensors, shapes_of: Callable[[int], Shapes]) -> int | None:
    """The number of classes for which the head in `tensors` was made; None if no array of a head fits."""
    two, three = shapes_of(2), shapes_of(3)
    for name in sorted(name for name in head(shapes_of) if name in tensors and name in two and name in three):
        for size, with_two, with_three in zip(tensors[name].shape, two[name], three[name], strict=False):
            step = with_three - with_two
            if step and size > with_two - 2 * step and (size - with_two) % step == 0:
                return 2 + (size - with_two) // step
    return None


def fit(
    tensors: Tensors,
    shapes: Shapes,
    origin: str,
    *,
    replaceable: Set[str] = frozenset(),
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those of `tensors` that a model of `shapes` takes, and a line for each group that is left out.

    Args:
      origin: names the tensors in messages.
      replaceable: the head's names; if one has another shape, the whole head is left out.
      allow_missing: regular expressions of names that `tensors` may lack; each must match a whole name.
      allow_unexpected: the same, of names that the model may lack.

    Raises UserError naming the first few that do not fit, if none is left, and if one that is left is not finite.
    """
    changed = {name for name in shapes.keys() & tensors.keys() if tuple(tensors[name].shape) != shapes[name]}
    left = replaceable & tensors.keys() if changed & replaceable else set()
    missing = shapes.keys() - tensors.keys() - (replaceable if left else set())
    unexpected = tensors.keys() - shapes.keys() - left
    untrained = _matching(missing, allow_missing, "missing")
    unused = _matching(unexpected, allow_unexpected, "unexpected")
    problems = [f"it lacks {_some(missing - untrained)}"] if missing - untrained else []
    problems += [f"the model has no {_some(unexpected - unused)}"] if unexpected - unused else []
    problems += [f"{_two_shapes(name, tensors, shapes)} in the model" for name in sorted(changed - left)[:1]]
    taken = {name: x for name, x in tensors.items() if name in shapes and name not in left}
    _check_fit(taken, problems, origin, tensors, shapes)
    notes = []
    if left:
        differs = _two_shapes(min(changed & replaceable), tensors, shapes)
        notes.append(f"{origin}: {differs} here, so the head starts untrained: {_some(replaceable)}")
    notes += [f"{origin}: without {_some(untrained)}, which start untrained"] if untrained else []
    notes += [f"{origin}: {_some(unused)} not used"] if unused else []
    return taken, notes


def _check_fit(taken: Tensors, problems: Sequence[str], origin: str, tensors: Tensors, shapes: Shapes) -> None:
    if problems:
        raise UserError(
            f"{origin}: does not fit: {'; '.join(problems)}; is it another architecture? config.init_rename, "
            "init_allow_missing and init_allow_unexpected say what may differ"
        )
    if not taken:
        raise UserError(
            f"{origin}: nothing of it fits: its names are {_some(tensors.keys()) or 'none'}, the model's are "
            f"{_some(shapes.keys())}; translate them by config.init_rename"
        )
    _check_types(taken, origin)
    check_finite(taken, origin)


def _two_shapes(name: str, tensors: Tensors, shapes: Shapes) -> str:
    return f"{name} is {list(tensors[name].shape)} there and {list(shapes[name])}"


def _layout(path: tuple, leaf: Any) -> tuple[str, tuple[int, ...]]:
    """Torch's name of the array at `path`, whose first part is the collection, and the order of axes as in LAYOUTS."""
    *modules, last = (step.key for step in path[1:])
    axes = len(leaf.shape)
    name, order = LAYOUTS.get((last, axes), (last, tuple(range(axes))))
    return ".".join([*modules, name]), order


def _matching(names: Set[str], patterns: Sequence[str], field: str) -> set[str]:
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise UserError(f"config.init_allow_{field}: {pattern!r} is no regular expression ({error})") from error
    return {name for name in names if any(each.fullmatch(name) for each in compiled)}


def _some(names: Set[str]) -> str:
    shown = ", ".join(map(one_line, sorted(names)[:4]))
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
