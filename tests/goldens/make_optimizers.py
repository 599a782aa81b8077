"""Writes optimizers.npz: ten steps of each of torch's optimisers, its schedulers' rates, its moving averages.

    python tests/goldens/make_optimizers.py        needs torch 2.13, on CPU, seconds

Every optimiser with weight decay, and with clipping by the global norm before it; the rates are `RATES`.
Parameters, gradients and updates are float64.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import optim
from torch.optim import lr_scheduler

STEPS, DECAY, CLIP = 10, 0.03, 1.5
RATES = 0.1 * 0.8 ** np.arange(STEPS)
TOTAL, WARMUP, FACTOR, PEAK = 40, 8, 0.01, 0.5
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, weight_decay=DECAY),
    "momentum": lambda p: optim.SGD(p, momentum=0.9, weight_decay=DECAY),
    "nesterov": lambda p: optim.SGD(p, momentum=0.9, nesterov=True, weight_decay=DECAY),
    "rmsprop": lambda p: optim.RMSprop(p, alpha=0.99, eps=1e-8, momentum=0.9, weight_decay=DECAY),
    "rmsprop_plain": lambda p: optim.RMSprop(p, alpha=0.95, eps=1e-3, weight_decay=DECAY),
    "adagrad": lambda p: optim.Adagrad(p, eps=1e-8, weight_decay=DECAY),
    "adam": lambda p: optim.Adam(p, betas=(0.9, 0.99), eps=1e-6, weight_decay=DECAY),
    "adamw": lambda p: optim.AdamW(p, weight_decay=DECAY),
}
# Behind a warm-up SequentialLR counts the second scheduler's steps from the warm-up's end.
SCHEDULES = {
    "step": lambda o, start: lr_scheduler.StepLR(o, step_size=10, gamma=0.1),
    "multistep": lambda o, start: lr_scheduler.MultiStepLR(o, [16 - start, 24 - start, 37 - start], gamma=0.5),
    "cosine": lambda o, start: lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL - start, eta_min=0.1 * PEAK),
    "polynomial": lambda o, start: lr_scheduler.PolynomialLR(o, total_iters=TOTAL - start, power=0.9),
    "constant": lambda o, start: lr_scheduler.ConstantLR(o, factor=1.0),
}


def optimizers(found, rng):
    kernel, bias = rng.normal(size=(3, 2)), rng.normal(size=2)
    gradients = rng.normal(size=(STEPS, 3, 2)), rng.normal(size=(STEPS, 2))
    found.update(kernel=kernel, bias=bias, kernel_gradients=gradients[0], bias_gradients=gradients[1], rates=RATES)
    for name, make in OPTIMIZERS.items():
        for clipping in ("plain", "clipped"):
            params = [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in (kernel, bias)]
            optimizer = make(params)
            history = []
            for step, rate in enumerate(RATES):
                for group in optimizer.param_groups:
                    group["lr"] = rate
                for parameter, gradient in zip(params, gradients, strict=True):
                    parameter.grad = torch.from_numpy(gradient[step].copy())
                if clipping == "clipped":
                    torch.nn.utils.clip_grad_norm_(params, CLIP)
                optimizer.step()
                history.append(np.concatenate([p.detach().numpy().ravel() for p in params]))
            found[f"{name}/{clipping}"] = np.stack(history)


def schedules(found):
    for name, make in SCHEDULES.items():
        for warming, start in (("plain", 0), ("warmup", WARMUP)):
            optimizer = optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
            scheduler = make(optimizer, start)
            if start:
                rise = lr_scheduler.LinearLR(optimizer, start_factor=FACTOR, total_iters=WARMUP)
                scheduler = lr_scheduler.SequentialLR(optimizer, [rise, scheduler], milestones=[WARMUP])
            rates = []
            for _ in range(TOTAL):
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
            found[f"schedule/{name}/{warming}"] = np.array(rates)


def averages(found, rng):
    """As torchvision's references/classification/train.py, but for `every`, which it counts from the first step on."""
    values = rng.normal(size=(12, 2))  # of a parameter and a buffer after every step
    found["ema/values"] = values
    for every, warmup in ((1, 0), (2, 0), (1, 4), (3, 4)):
        model = torch.nn.BatchNorm1d(1).double()
        average = optim.swa_utils.AveragedModel(model, avg_fn=lambda a, x, _: 0.8 * a + 0.2 * x, use_buffers=True)
        history = []
        for step, (parameter, buffer) in enumerate(values):
            model.weight.data.fill_(parameter)
            model.running_mean.fill_(buffer)
            if (step + 1) % every == 0:
                average.update_parameters(model)
                if step < warmup:
                    average.n_averaged.fill_(0)
            history.append((average.module.weight.item(), average.module.running_mean.item()))
        found[f"ema/{every}/{warmup}"] = np.array(history)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.optim")
    found: dict[str, np.ndarray] = {}
    optimizers(found, np.random.default_rng(0))
    schedules(found)
    averages(found, np.random.default_rng(1))
    np.savez_compressed(Path(__file__).parent / "optimizers.npz", **found)
