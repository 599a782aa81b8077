"""Finds the model's state dict in a checkpoint, and removes the prefixes of wrappers from its names.

A checkpoint is a state dict, or a dict that holds one next to optimiser state, settings and results. There is no
standard key for it; the rules here follow the references of torchvision and timm, Lightning, mmengine and detectron2.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from morphism.errors import UserError
from morphism.weights.pickles import Inert

RAW = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights")
AVERAGED = ("state_dict_ema", "model_ema_state_dict", "ema_state_dict", "model_ema", "params_ema", "ema")
OPTIMISERS = ("optim", "sched", "lr_sched", "scaler", "amp")  # prefixes of parts that are no model
DEEPEST = 8  # levels of nested parts
WRAPPERS = ("module.", "_orig_mod.", "model.")  # DataParallel and AveragedModel, torch.compile, Lightning
AVERAGES = "n_averaged"  # AveragedModel's count of averaged states


class Part(NamedTuple):
    """The tensors of a state dict, its path in the checkpoint, such as "model.state_dict", and notes on the choice."""

    path: str
    tensors: dict[str, Any]
    notes: tuple[str, ...] = ()


def choose(content: Any, tensor: type) -> Part:
    """The model's state dict in `content`; its `path` is "" if `content` itself is the state dict.

    Averaged weights are preferred to raw ones if they have all of the raw ones' tensors. `tensor` is the class of
    tensors. Raises UserError if there is no state dict, or if it is unclear which of several is the model's.
    """
    found = _Search(tensor).find(content, "", DEEPEST)
    if found:
        return found
    kind = content.name if type(content) is Inert else type(content).__name__
    held = ", ".join(content)[:200] or "nothing" if type(content) is dict else f"one {kind}"
    raise UserError(
        f"no state dict in it, but {held}; a model's tensors are looked for at the top, and under "
        f"{', '.join((*RAW, *AVERAGED))}"
    )


def unwrap(tensors: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The tensors under their `unwrapped` names; `say` gets a line if that removes a prefix."""
    names, prefix = unwrapped(tensors)
    if prefix:
        say(f"all names begin with {prefix}, which is removed")
    return {now: tensors[name] for name, now in names.items()}


def unwrapped(names: Iterable[str]) -> tuple[dict[str, str], str]:
    """Name -> name without the wrappers' prefixes, and the removed prefix, such as "module._orig_mod.".

    As long as all names begin with a prefix of WRAPPERS, it is removed. AveragedModel's counter does not count as a
    name, and is dropped with the prefix.
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
    """A search that visits each dict once, even if many dicts hold it."""

    def __init__(self, tensor: type):
        self._tensor, self._seen = tensor, {}

    def find(self, content: Any, path: str, depth: int) -> Part | None:
        if type(content) is not dict or depth == 0:
            return None
        if id(content) not in self._seen:
            self._seen[id(content)] = None  # in case it contains itself
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
        parts = list({id(part): part for part in parts}.values())  # one dict under two names is one part
        if len(parts) > 1:
            raise UserError(
                f"it has several parts with tensors: {', '.join(part.path for part in parts)[:200]}; load it in torch, "
                "and save the model's state dict to a file of its own"
            )
        if parts:
            return parts[0]._replace(notes=(*parts[0].notes, f"the tensors are read from {parts[0].path}"))
        return Part(path, own) if own else None


def _preferred(raw: list[Part], averaged: list[Part]) -> Part:
    """The first complete averaged weights, else the first raw ones, with a note on the others."""
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
    return chosen._replace(notes=(*chosen.notes, f"the {kind} in {chosen.path} are used, not {others}{why}"))


def _names(tensors: Mapping[str, Any]) -> set[str]:
    return set(unwrapped(tensors)[0].values())
