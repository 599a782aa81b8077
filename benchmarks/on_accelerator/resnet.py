"""ResNet-50's training step and its evaluation, next to torch on the same card."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from served import Answers, Row

from on_accelerator import hlo
from on_accelerator.call import Call
from on_accelerator.peers import jax_memory, repeated, torch_device, torch_memory

PEERS = ("morphism", "torch eager", "torch compiled")
VARIANTS = ("morphism, batch norm in two passes", "morphism, deterministic")


def training(call: Call) -> Iterator[Row]:
    yield from compared(call, "train", VARIANTS)


def evaluation(call: Call) -> Iterator[Row]:
    yield from compared(call, "evaluate", ())


def compared(call: Call, work: str, variants: Sequence[str]) -> Iterator[Row]:
    """A row per contender that runs, with its medians so far, after each round.

    The peers take turns as soon as each is ready. They then leave the card's memory to `variants`, each of which takes
    turns with this project's step as it is. The variants are compiled one after the other, since XLA chooses algorithms
    by timing them.
    """
    facts: dict[str, Row] = {}
    times: dict[str, list[float]] = {}
    first = [call.contender(f"resnet:{work}:{name}") for name in PEERS]
    servers = dict(zip(PEERS, first, strict=True))
    for name in (*PEERS, *variants):
        if name not in servers:
            for peer in (peer for peer in list(servers) if peer != PEERS[0]):
                servers.pop(peer).stop()
            servers[name] = call.contender(f"resnet:{work}:{name}")
        facts[name] = servers[name].ready(call.left)
        if "ready_s" in facts[name]:
            facts[name] |= _only(servers[name].ask("warm up", call.left))
        yield _row(name, facts)
        for _ in range(1 if call.dry else 4):
            for each in (each for each in servers if each in facts and "error" not in facts[each]):
                answer = _only(servers[each].ask("run", call.left))
                if "error" in answer:
                    facts[each] |= answer
                else:
                    times.setdefault(each, []).append(answer["seconds"])
                yield _row(each, facts, float(np.median(times[each])) if each in times else None)
    for server in servers.values():
        server.stop()


def _only(answer: Row) -> Row:
    return answer["rows"][0] if "rows" in answer else answer


def _row(name: str, facts: Mapping[str, Row], seconds: float | None = None) -> Row:
    """What is known of a contender; MFU, the share of the card's published peak, by our count of operations for all."""
    own = {key: value for key, value in facts[name].items() if key not in ("flops", "peak", "batch")}
    if seconds:
        flops, peak = (next((row[key] for row in facts.values() if row.get(key)), None) for key in ("flops", "peak"))
        own |= {"images_per_s": facts[name]["batch"] / seconds, "ms": 1e3 * seconds}
        own |= {"mfu": flops / seconds / peak} if flops and peak else {}
    return {"key": name, "what": own.pop("what", ""), "who": name, **own}


def serve(dry: bool, given: str) -> Answers:
    """given: "train" or "evaluate", and the contender's name."""
    work, name = given.split(":")
    side, batch, calls = (32, 4, 1) if dry else (224, 256, 20 if work == "train" else 40)
    model = "resnet18" if dry else "resnet50"
    drawn = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3)).astype(np.uint8)
    if name.startswith("torch"):
        run, facts = torch_resnet(model, work, name, drawn, calls, dry), lambda: torch_memory()
    else:
        run, facts = jax_resnet(model, work, name, drawn, calls)
    if name.startswith("torch") or work == "evaluate":
        run()  # compiles, which this project's training step has done already
    what = f"{model}, {side}, batch {batch}, bfloat16, {'training step' if work == 'train' else 'evaluation'}"

    def answer(line: str) -> list[Row]:
        began = time.perf_counter()
        run()
        seconds = (time.perf_counter() - began) / calls
        return [{"seconds": seconds} if line == "run" else {"what": what, "batch": batch, **facts()}]

    return answer


def jax_resnet(
    name: str, work: str, variant: str, images: np.ndarray, calls: int
) -> tuple[Callable[[], None], Callable[[], Row]]:
    """This project's step by the experiment imagenet_resnet, and what there is to say of it once it has run."""
    import jax
    import turns

    from morphism import models, tasks
    from morphism.experiments import imagenet_resnet
    from morphism.ops import moments
    from morphism.runtime import peaks
    from morphism.runtime.mesh import AXIS, make_mesh, replicated

    if "two passes" in variant:
        moments._in_one_pass = moments._in_two_passes
    config = imagenet_resnet.get_config(name.removeprefix("resnet"))
    config.model.dtype = "bfloat16"
    config.deterministic = "deterministic" in variant
    model, task = models.create(config.model, 1000, AXIS), tasks.of(config)
    batch = turns.images(len(images), *images.shape[1:3]) | {"image": images}
    batch["label"] = np.arange(len(images), dtype=np.int32) % 1000
    peak = peaks.flops(jax.devices()[0].device_kind, "bfloat16")
    if work == "train":
        step = turns.TrainStep(config, task, model, 1000, batch, calls)
        return step, lambda: {"flops": step.flops, "peak": peak, **jax_memory(), **hlo.facts(step.program.as_text())}

    from morphism.evaluation.step import make_eval_step

    mesh = make_mesh()
    variables = jax.jit(lambda: models.init(model, jax.random.key(0), 64), out_shardings=replicated(mesh))()
    step, batch = make_eval_step(model, task, config, mesh), jax.device_put(batch)

    def run() -> None:
        for _ in range(calls):
            found = step(variables, batch)
        jax.block_until_ready(found)

    return run, jax_memory


def torch_resnet(name: str, work: str, variant: str, images: np.ndarray, calls: int, dry: bool) -> Callable[[], None]:
    """torchvision's ResNet: channels last, bfloat16 by autocast, uint8 images normalised and half of them mirrored."""
    import torch
    from train_step import MOMENTUM, RATE
    from train_step import torch_resnet as make

    device = torch_device()
    training = work == "train"
    model = make(name, 1000).to(device, memory_format=torch.channels_last).train(training)
    forward = torch.compile(model, backend="aot_eager" if dry else "inductor") if "compiled" in variant else model
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=1e-4)
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    y = torch.arange(len(images), device=device) % 1000
    mean, std = (
        torch.tensor(each, device=device)[:, None, None] for each in ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))
    )

    def once() -> None:
        pixels = (x - mean) / std
        if training:
            pixels = torch.where(torch.rand(len(x), 1, 1, 1, device=device) < 0.5, pixels.flip(3), pixels)
        with torch.inference_mode(not training), torch.autocast(device, torch.bfloat16):
            logits = forward(pixels.contiguous(memory_format=torch.channels_last))
        if training:
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(logits.float(), y).backward()
            optimizer.step()

    return repeated(once, calls, device)
