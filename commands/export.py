"""A run's trained model as .safetensors under torch's names and layouts.

    morphism export --workdir runs/r50 --output r50.safetensors [--checkpoint best|latest|STEP]

If the architecture is one of torchvision's, torch loads the file with
model.load_state_dict(safetensors.torch.load_file("r50.safetensors"), strict=True). Where the run kept moving averages,
they are written. `morphism eval`, `morphism predict` and config.init_from read the file too. Its header holds the names
of the classes, the model's options, and the sizes and normalisation of images, which --weights uses.
"""

from pathlib import Path

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command()
_WORKDIR = COMMAND.string("workdir", None, "The --workdir of a training run.")
_OUTPUT = COMMAND.string("output", None, "The .safetensors file to write.")
_CHECKPOINT = COMMAND.string("checkpoint", "best", "best, latest or a step.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}")
    if not _WORKDIR.value or not _OUTPUT.value:
        raise UserError(f"--{'output' if _WORKDIR.value else 'workdir'} is missing; see morphism export --help")
    from morphism.weights import files
    from morphism.weights.opening import facts, read_run

    weights = read_run(Path(_WORKDIR.value), _CHECKPOINT.value)
    path = Path(_OUTPUT.value)
    files.write(path, weights.tensors, facts(weights))
    values = sum(tensor.size for tensor in weights.tensors.values())
    print(
        f"{weights.origin}: {len(weights.tensors)} arrays, {values:,} values, in {path}; SHA-256 {files.sha256(path)}"
    )
