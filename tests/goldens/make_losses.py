"""Writes losses.npz: torch's losses and their gradients at drawn logits.

python tests/goldens/make_losses.py        needs torch 2.13 and torchvision 0.28, on CPU, seconds
"""

import contextlib
from pathlib import Path

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(6, 5)) * 3
LABELS = np.array([0, 3, 4, 2, 2, 1])
SOFT = rng.dirichlet(np.ones(5), 6)
MANY = (rng.random((6, 5)) < 0.4).astype(float)  # several labels, or none, an example
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.25, 3.0])
SMOOTHINGS = (0.0, 0.1)
FOCAL = ((0.25, 2.0), (-1.0, 2.0), (0.75, 0.5), (0.5, 0.0))


def put(found, name, loss):
    """`loss`(logits) without reduction; its sum's gradient beside it."""
    logits = torch.from_numpy(LOGITS).requires_grad_()
    value = loss(logits)
    value.sum().backward()
    found[name], found[f"{name}/gradient"] = value.detach().numpy(), logits.grad.numpy()


def cross_entropies(found):
    for kind, target in (("class", LABELS), ("soft", SOFT)):
        for smoothing in SMOOTHINGS:
            for weighting, weights in (("plain", None), ("weighted", torch.from_numpy(WEIGHTS))):
                for reduction in ("none", "mean"):
                    put(
                        found,
                        f"cross_entropy/{kind}/{smoothing}/{weighting}/{reduction}",
                        lambda x: F.cross_entropy(
                            x,
                            torch.from_numpy(target),  # noqa: B023
                            weight=weights,  # noqa: B023
                            label_smoothing=smoothing,  # noqa: B023
                            reduction=reduction,  # noqa: B023
                        ),
                    )


def sigmoids(found):
    for kind, target in (("many", MANY), ("soft", SOFT)):
        t = torch.from_numpy(target)
        for weighting, weights in (("plain", None), ("weighted", torch.from_numpy(WEIGHTS))):
            put(
                found,
                f"bce/{kind}/{weighting}",
                lambda x: F.binary_cross_entropy_with_logits(x, t, pos_weight=weights, reduction="none"),  # noqa: B023
            )
        for alpha, gamma in FOCAL:
            put(found, f"focal/{kind}/{alpha}/{gamma}", lambda x: sigmoid_focal_loss(x, t, alpha, gamma))  # noqa: B023


if __name__ == "__main__":
    found = {"logits": LOGITS, "labels": LABELS, "soft": SOFT, "many": MANY, "weights": WEIGHTS}
    cross_entropies(found)
    sigmoids(found)
    np.savez_compressed(Path(__file__).parent / "losses.npz", **found)
