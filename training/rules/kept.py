"""What of the weights stays as it is, and how wide the heads are that start untrained."""

from collections.abc import Callable

from morphism.training.rules.case import Case, Choice

FEW = 10_000  # images, below which what the weights know of images is kept
NARROW = {"channels": 128, "head_width": 512, "mask_width": 128}  # heads on CPU
FEWER = {"train_candidates": 500, "candidates": 300, "train_proposals": 500, "proposals": 300, "box_samples": 128}


def freeze(case: Case) -> Choice:
    if case.weights and case.images.records < FEW:
        return Choice(case.config.optimizer.freeze, f"the first layers keep the weights: {_few(case)}")
    return Choice((), "all is trained: " + (_many(case) if case.weights else "there are no weights to keep"))


def frozen_bn(case: Case) -> Choice:
    if case.weights and case.images.records < FEW:
        return Choice(True, f"statistics of the weights are better than those of few images: {_few(case)}")
    return Choice(False, _many(case) if case.weights else "random weights need their own statistics")


def lr_multipliers(case: Case) -> Choice:
    if case.weights:
        return Choice(case.config.optimizer.lr_multipliers, "heads start untrained, the rest does not")
    return Choice((), "all starts untrained")


def _few(case: Case) -> str:
    return f"{case.images.records:,} images are fewer than {FEW:,}"


def _many(case: Case) -> str:
    return f"{case.images.records:,} images are enough"


def bn_epsilon(case: Case) -> Choice:
    if "bn_epsilon" in case.options:
        return Choice(dict(case.options)["bn_epsilon"], "as these public weights were trained")
    return Choice(case.config.model.options.bn_epsilon, "as ResNets are trained")


def narrow(option: str) -> Callable[[Case], Choice]:
    """Halves the width of untrained heads on CPU."""

    def rule(case: Case) -> Choice:
        own = case.config.model.options[option]
        if case.whole:
            return Choice(own, "as the weights have it")
        if case.on_cpu:
            why = "heads start untrained, and narrow ones learn more per minute on CPU"
            return Choice(min(own, NARROW[option]), why)
        return Choice(own, "the network's own")

    return rule


def fewer(option: str) -> Callable[[Case], Choice]:
    """Reduces on CPU what the second stage has to look at; `proposals` stay above the objects that there can be."""

    def rule(case: Case) -> Choice:
        own, least = case.config.model.options[option], 2 * case.images.most_boxes
        if case.on_cpu:
            return Choice(min(own, max(FEWER[option], least)), "on CPU fewer boxes per image learn more per minute")
        return Choice(own, "the network's own")

    return rule
