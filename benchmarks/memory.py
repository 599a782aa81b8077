"""What a training step holds in the memory of a device, and what accumulation, remat, bfloat16 and sharing change.

    python benchmarks/memory.py [--experiment imagenet_resnet:50] [--devices 8] [--batch 256] [--compile]

Per variant, in MB per device: `state`, the parameters, optimiser's state, moving averages and statistics, exact on any
platform; `kept`, what the forward pass of a micro-batch keeps for the backward pass, as JAX traces it for accelerators,
before the compiler has merged anything. With `--compile` also `temporaries` and `total` of the compiled step, by XLA
for the devices of this machine. XLA for CPU computes bfloat16 in float32, and merges what remat computes twice with
what it computed first: there these two columns only tell how the state is shared.

Nothing is trained, and no data is read. The optimiser is AdamW, and moving averages are kept: a state is four times
its parameters.
"""

import argparse
import importlib
from pathlib import Path
from typing import Any

import jax
import turns
from ml_collections import ConfigDict

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16, float32 masters": {"model.dtype": "bfloat16"},
    "bfloat16, 4 micro-batches": {"model.dtype": "bfloat16", "accumulate": 4},
    "bfloat16, remat of all but products": {
        "model.dtype": "bfloat16",
        "model.remat": True,
        "model.remat_policy": "products",
    },
    "bfloat16, remat of whole blocks": {"model.dtype": "bfloat16", "model.remat": True},
    "float32, a state per 2 devices": {"mesh.fsdp": 2},
    "float32, one state for all devices": {"mesh.fsdp": 0},
}


def measure(config: ConfigDict, classes: int, devices: int, compiled: bool) -> turns.Row:
    """MB per device."""
    from morphism.data.canvases import presumed
    from morphism.runtime.mesh import make_mesh
    from morphism.training.footprint import Plan

    plan, shape = Plan.of(config, classes, make_mesh(devices, config.mesh.fsdp)), presumed(config.data, True)
    found = {"state": plan.state_bytes() / 1e6, "kept": plan.kept_bytes(shape) / 1e6}
    if compiled:
        footprint = plan.training(shape)
        found |= {"temporaries": footprint.temporaries / 1e6, "total": footprint.total / 1e6}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="imagenet_resnet:50")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--compile", action="store_true", help="also compile the steps")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)  # other platforms ignore it
    module, _, argument = args.experiment.partition(":")
    base = importlib.import_module(f"morphism.experiments.{module}").get_config(*filter(None, [argument]))
    columns = ("state", "kept", *(("temporaries", "total") if args.compile else ()))
    print(f"{'':40}" + "".join(f"{name:>13}" for name in columns))
    rows = []
    for variant in args.variants:
        config = base.copy_and_resolve_references().unlock()
        config.update_from_flattened_dict(
            {"batch_size": args.batch, "data.image_size": args.size, "optimizer.name": "adamw", "ema.decay": 0.999}
            | VARIANTS[variant]
        )
        found = measure(config, args.classes, args.devices, args.compile)
        print(f"{variant:40}" + "".join(f"{found[name]:13,.0f}" for name in columns), flush=True)
        rows.append({"name": variant, **found})
    about = {"experiment": args.experiment, "devices": args.devices, "batch": args.batch, "size": args.size}
    turns.save(args.output, about | {"device": jax.devices()[0].device_kind, "results": rows})


if __name__ == "__main__":
    main()
