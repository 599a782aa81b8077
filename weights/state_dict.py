"""Which part of a checkpoint is the model's tensors, and what their names are.

A checkpoint is a state dict, or a dict that holds one beside the optimiser's state, settings and results. There is no
standard for its name; the rules here follow torchvision's and timm's references, Lightning, mmengine and detectron2.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from errors import UserError

RAW = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights")
AVERAGED = ("state_dict_ema", "model_ema_state_dict", "ema_state_dict", "model_ema", "params_ema", "ema")
OPTIMISERS = ("optim", "sched", "lr_sched", "scaler", "amp")  # how the names of other parts begin
DEEPEST = 8  # parts within parts
WRAPPERS = ("module.", "_orig_mod.", "model.")  # DataParallel and AveragedModel, torch.compile, Lightning
AVERAGES = "n_averaged"  # how many states an AveragedModel is the average of


class Part(NamedTuple):
    """Tensors of a checkpoint, where they were, such as "model" or "model.state_dict", and what was decided."""

    path: str
    tensors: dict[str, Any]
    notes: tuple[str, ...] = ()


def choose(content: Any, tensor: type) -> Part:
    """The state dict in `content`, whose tensors are of the class `tensor`; its `path` is "" for the content itself.

    Averaged weights come before raw ones where they have all of their tensors. The notes are for a person to read.
    Raises UserError where there is none, or where it is not known which of several is meant.
    """
    found = _Search(tensor).find(content, "", DEEPEST)
    if found:
        return found
    held = ", ".join(content)[:200] or "nothing" if type(content) is dict else f"a {type(content).__name__}"
    raise UserError(
        f"no state dict in it, but {held}; a model's tensors are looked for at the top, and under "
        f"{', '.join((*RAW, *AVERAGED))}"
    )


def unwrapped(names: Iterable[str]) -> tuple[dict[str, str], str]:
    """Name -> the name without what wraps the model, and that prefix; an AveragedModel's own counter is left out.

    A prefix of WRAPPERS, such as "module.", is removed where all names have it, again and again.
    """
    kept = [name for name in names if name != AVERAGES]
    start, again = 0, bool(kept)
    while again:
        prefix = next((each for each in WRAPPERS if all(name.startswith(each, start) for name in kept)), "")
        start, again = start + len(prefix), bool(prefix)
    if not start:
        return {name: name for name in names}, ""
    return {name: name[start:] for name in kept}, kept[0][:start]


class _Search:
    """Each dict is looked at once, however often and deep it is held."""

    def __init__(self, tensor: type):
        self._tensor, self._seen = tensor, {}

    def find(self, content: Any, path: str, depth: int) -> Part | None:
        if type(content) is not dict or depth == 0:
            return None
        if id(content) not in self._seen:
            self._seen[id(content)] = None  # where it holds itself
            self._seen[id(content)] = self._look(content, path, depth)
        return self._seen[id(content)]

    def _look(self, content: dict[str, Any], path: str, depth: int) -> Part | None:
        def inside(name: str) -> Part | None:
            return self.find(content[name], f"{path}.{name}" if path else name, depth - 1)

        raw = [part for name in RAW if name in content and (part := inside(name))]
        averaged = [part for name in AVERAGED if name in content and (part := inside(name))]
        if raw or averaged:
            return _preferred(raw, averaged)
        own = {name: x for name, x in content.items() if type(x) is self._tensor}
        others = [name for name in content if not name.lower().startswith(OPTIMISERS)]
        parts = [part for name in others if (part := inside(name)) and len(part.tensors) >= len(own)]
        if len(parts) > 1:
            raise UserError(
                f"it has several parts with tensors: {', '.join(part.path for part in parts)[:200]}; load it in torch, "
                "and save the state dict that is meant in a file of its own"
            )
        if parts:
            return parts[0]._replace(notes=(*parts[0].notes, f"the tensors are those under {parts[0].path}"))
        return Part(path, own) if own else None


def _preferred(raw: list[Part], averaged: list[Part]) -> Part:
    """The first averaged weights that are whole, else the first raw ones, and what else there was."""
    chosen, reasons = (raw or averaged)[0], []
    for part in averaged if raw else ():
        missing = sorted(_names(chosen.tensors) - _names(part.tensors))
        if not missing:
            chosen = part
            break
        reasons.append(f"{part.path} lacks {len(missing)} of its tensors, such as {missing[0]}")
    others = ", ".join(part.path for part in (*raw, *averaged) if part is not chosen)
    if not others:
        return chosen
    kind = "averaged weights" if chosen in averaged else "weights"
    why = f" ({'; '.join(reasons)})" if reasons else ""
    return chosen._replace(notes=(*chosen.notes, f"the {kind} under {chosen.path} are taken, not {others}{why}"))


def _names(tensors: Mapping[str, Any]) -> set[str]:
    return set(unwrapped(tensors)[0].values())
