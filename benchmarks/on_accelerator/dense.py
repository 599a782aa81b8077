"""Steps of detectors and segmenters at their recipes' sizes; RoI Align and NMS by themselves."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from served import Answers, Row, in_a_line

from on_accelerator import hlo
from on_accelerator.call import Call
from on_accelerator.peers import jax_memory, repeated, torch_device, torch_memory

STEPS = (  # model, canvas, batch that a card of 80 GB holds, calls per measurement
    ("fasterrcnn_resnet50_fpn", (800, 1344), 8, 5),
    ("yolox_s", (640, 640), 32, 5),
    ("retinanet_resnet50_fpn", (800, 1344), 8, 5),
    ("deeplabv3_resnet50", (480, 480), 16, 5),
    ("unet", (360, 480), 16, 5),
)
DRY_STEPS = (("unet", (32, 32), 2, 1),)
TORCHVISION = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "deeplabv3_resnet50", "unet")


def rows(call: Call) -> Iterator[Row]:
    """All are compiled at once; then each is timed alone, and its memory freed. In the dry run one after the other."""
    names = ["operations:"]
    for number, (model, *_) in enumerate(DRY_STEPS if call.dry else STEPS):
        names += [f"step:morphism:{number}", *([f"step:torch:{number}"] if model in TORCHVISION else [])]
    for group in [[name] for name in names] if call.dry else [names]:
        servers = {name: call.contender(name) for name in group}
        kept = 0 if call.dry else 0.3 * call.left  # for the measurements; what is not ready by then is not measured
        found = {name: server.ready(call.left - kept) for name, server in servers.items()}
        for name, server in servers.items():
            if "ready_s" in found[name]:
                found[name] |= server.ask("run", call.left)
            server.stop()
            ready = {"ready_s": found[name]["ready_s"]} if "rows" in found[name] else {}
            for row in found[name].get("rows", [{"what": name, "error": found[name].get("error")}]):
                yield row | ready


def serve(dry: bool, given: str) -> Answers:
    """given: "morphism" or "torch", and the position in STEPS."""
    who, number = given.split(":")
    name, size, batch, calls = (DRY_STEPS if dry else STEPS)[int(number)]
    import detectors
    import segmenters

    module = segmenters if name in segmenters.EXPERIMENTS else detectors
    drawn = module.drawn(batch, *size)
    if who == "torch":
        run, facts = repeated(torch_step(name, drawn), calls, torch_device()), torch_memory
    else:
        run = module.train_step(name, drawn, "bfloat16", calls)
        facts = lambda: {**jax_memory(), **hlo.facts(run.program.as_text())}  # noqa: E731

    def answer(_: str) -> list[Row]:
        run()
        seconds = []
        for _ in range(1 if dry else 5):
            began = time.perf_counter()
            run()
            seconds.append((time.perf_counter() - began) / calls)
        median = float(np.median(seconds))
        what = f"{name}, {size[0]}x{size[1]}, batch {batch}, bfloat16, training step"
        return [{"what": what, "who": who, "images_per_s": batch / median, "ms": 1e3 * median, **facts()}]

    return answer


def torch_step(name: str, batch: dict[str, np.ndarray]) -> Callable[[], None]:
    """A step of torchvision's model, or of segmenters.py's U-Net: channels last, bfloat16 by autocast."""
    import detectors
    import segmenters
    import torch

    device = torch_device()
    x = torch.from_numpy(batch["image"]).to(device).permute(0, 3, 1, 2).float() / 255
    if name in segmenters.EXPERIMENTS:
        model = segmenters.torch_unet() if name == "unet" else segmenters.torch_deeplabv3()
        target = torch.from_numpy(batch["segmentation"]).long().to(device)
        x = x.contiguous(memory_format=torch.channels_last)

        def loss():
            found = {key: logits.float() for key, logits in model(x).items()}
            losses = {
                key: torch.nn.functional.cross_entropy(each, target, ignore_index=255) for key, each in found.items()
            }
            return losses["out"] + (segmenters.AUX * losses["aux"] if "aux" in losses else 0)

    else:
        model = detectors.torchvision_model(name)
        x = x.contiguous(memory_format=torch.channels_last)
        targets = [
            {"boxes": torch.from_numpy(b).to(device), "labels": torch.from_numpy(c).long().to(device) + 1}
            for b, c in zip(batch["boxes"], batch["classes"], strict=True)
        ]

        def loss():
            return sum(model(x, targets).values())

    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-4, 0.9)

    def once() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            value = loss()
        value.backward()
        optimizer.step()

    return once


def serve_operations(dry: bool, _: str) -> Answers:
    import jax
    import nms
    import roi_gradient
    import turns

    from morphism.runtime.mesh import compiler_options

    rounds = 2 if dry else 20
    pooling = roi_gradient.make_parser().parse_args([])
    boxes = nms.make_parser().parse_args([])
    if dry:
        pooling.size, pooling.boxes, pooling.channels, boxes.boxes, boxes.batch = (128, 160), 8, 4, 50, 2
    pooling.rounds = boxes.rounds = rounds

    def answer(_: str) -> list[Row]:
        rows = roi_gradient.measured(pooling, "float32")
        if not dry:
            rows += roi_gradient.measured(pooling, "bfloat16")
        exact = roi_gradient.measured(pooling, "float32", compiler_options(deterministic=True))
        rows += [{**row, "what": row["what"] + ", deterministic"} for row in exact]
        batch = nms.draw(boxes)
        runs = {"morphism": nms.morphism(boxes, *batch)}
        try:
            runs["torchvision"] = nms.compiled(boxes, *batch, device="cpu" if dry else torch_device())
            runs["torchvision"]()
        except Exception as error:
            runs.pop("torchvision", None)
            rows.append({"what": "NMS", "who": "torchvision", "error": in_a_line(error)})
        kept = {name: run() for name, run in runs.items()}
        for name, row in turns.medians(runs, rounds).items():
            what = f"NMS of {boxes.boxes} boxes, batch {boxes.batch}"
            rows.append({"what": what, "who": name, "ms": 1e3 * row["wall"], "kept": kept[name]})
        jax.clear_caches()
        return rows

    return answer
