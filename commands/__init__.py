"""The command `morphism`: each file here is one of its commands, with its flags and a `main`."""

import sys

import morphism
from morphism.commands import cli
from morphism.errors import did_you_mean

COMMANDS = {
    "train": "trains an experiment, or continues a run",
    "sweep": "trains many trials of an experiment over a space of its fields",
    "eval": "evaluates a run, or other trained weights",
    "predict": "predicts what images show",
    "report": "one HTML file about one or several runs, or about a sweep",
    "table": "results over seeds, of a sweep or of runs, as a paper prints them",
    "check": "reads the whole of a data source and reports what is in it",
    "prepare": "prepares a TensorFlow Datasets dataset",
    "summary": "layers, parameters and multiply-accumulates of a model",
    "export": "writes a trained model as .safetensors, .stablehlo or .onnx",
    "outputs": "a model's raw outputs on given arrays",
    "config": "an experiment's configuration, and what its fields mean",
    "reproduce": "trains a run again, and says whether the result is equal to the bit",
    "compare": "compares runs: configurations, versions, data, curves, numbers",
    "digest": "a fingerprint of a checkpoint's parameters",
    "list": "available models, experiments, weights, sources and augmentations",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print("morphism COMMAND ...; morphism COMMAND --help\n")
        print("\n".join(f"  {each:<10}{meaning}" for each, meaning in COMMANDS.items()))
    elif name == "--version":
        print(f"morphism {morphism.__version__}")
    elif name in COMMANDS:
        cli.run(name, f"morphism {name}", sys.argv[2:])
    else:
        cli.fail("morphism", f"there is no command {name!r}; see morphism --help{did_you_mean(name, COMMANDS)}")
