"""Imports point one way: a package sees only those on the levels before its own, and no module sees itself again."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = (
    ("errors", "experiments", "frames", "labels", "threads"),
    ("lengths",),
    ("ops",),
    ("augment",),
    ("data", "models"),
    ("tasks",),
    ("runtime",),
    ("weights",),
    ("evaluation",),
    ("training",),
    ("sweeps",),
    ("commands",),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for name in LEVEL
    for path in (sorted((ROOT / name).rglob("*.py")) if (ROOT / name).is_dir() else [ROOT / f"{name}.py"])
}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """The line and name of every module that a file imports, anywhere in it, without "morphism." in front of ours."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name.removeprefix("morphism.")) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            base = node.module.removeprefix("morphism").removeprefix(".")
            for each in node.names:
                below = f"{base}.{each.name}".removeprefix(".")
                yield node.lineno, below if below in MODULES else base


def test_every_import_looks_to_a_level_before():
    wrong = []
    for module, path in MODULES.items():
        own = module.partition(".")[0]
        for line, name in imported(path):
            other = name.partition(".")[0]
            if other in LEVEL and other != own and LEVEL[other] >= LEVEL[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}: {own} must not see {other}")
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle_of_imports():
    seen: dict[str, bool] = {}  # False while its imports are being followed

    def follow(module: str, path: tuple[str, ...]) -> None:
        assert seen.get(module, True), f"a circle: {' -> '.join([*path, module])}"
        if module in seen:
            return
        seen[module] = False
        for _, name in imported(MODULES[module]):
            if name in MODULES and name != module:
                follow(name, (*path, module))
        seen[module] = True

    for module in MODULES:
        follow(module, ())


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("data", {"jax", "flax", "optax", "orbax"}), ("experiments", set())],
)
def test_what_a_package_must_not_import(package, allowed):
    """data's worker processes start without JAX; an experiment is read before anything else is loaded."""
    for module, path in MODULES.items():
        if module.partition(".")[0] != package:
            continue
        for line, name in imported(path):
            outermost = name.partition(".")[0]
            where = f"{path.relative_to(ROOT)}:{line} imports {name}"
            if package == "data":
                assert outermost not in allowed, where
            else:
                assert outermost in ("ml_collections", "experiments") or _standard(outermost), where


def _standard(name: str) -> bool:
    import sys

    return name in sys.stdlib_module_names


def test_every_import_of_ours_has_the_import_name():
    """Nothing is imported as `data` or `models`, which an installed package does not have."""
    own = {*LEVEL, "cli", "train", "eval"}
    for path in our_files():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] not in own, f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"


def test_all_json_is_strict():
    """NaN is no JSON: what is written with it, other programs cannot read."""
    for path in our_files():
        if path.relative_to(ROOT).parts[0] != "tests":
            text = path.read_text()
            assert text.count("json.dump") == text.count("allow_nan=False"), path


def our_files() -> list[Path]:
    """All Python files of the checkout, but none of builds, hidden folders and virtual environments in it."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "." and path.name != "build"]
    ours = [folder for folder in folders if not (folder / "pyvenv.cfg").exists()]
    return [*ROOT.glob("*.py"), *(path for folder in ours for path in folder.rglob("*.py"))]
