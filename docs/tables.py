"""Renders docs/results/*.json into the marked regions of README.md and docs/*.md.

    python docs/tables.py            # rewrites the regions
    python docs/tables.py --check    # exits with 1 and names the files whose regions are out of date

A region starts with `<!-- results: NAME -->` and ends with `<!-- end -->`; NAME is a key of VIEWS. No figure of
results or speed is typed anywhere else: measure, write it into the JSON, run this script.
"""

import json
import re
import string
import sys
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parent
REGION = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOTHING = "–"

Columns = tuple[tuple[str, str], ...]


class View(NamedTuple):
    """One region: which table of docs/results, its columns (heading, template of a row) and what stands around it."""

    tables: str  # "file.table", or several, whose rows follow one another
    columns: Columns
    about: bool = True  # the table's own sentence above it
    details: bool = True  # rows that are marked as "detail"
    notes: bool = True  # its caveats below it
    commands: bool = False  # the commands that made it, below that


TOP1 = (("Experiment", "`{experiment}`"), ("Top-1, %", "{top1}"), ("Published, %", "{published[top1]}"))
AP = (("AP", "{ap}"), ("AP50", "{ap50}"))
MIOU = (("mIoU", "{miou}"), ("Pixel accuracy", "{accuracy}"))
RUN = (("Experiment", "`{experiment}`"), ("Data", "{data}"), ("Trained for", "{schedule}"))
SPENT = (("Time", "{time}"), ("Peak RAM", "{memory}"))
BARE = {"about": False, "notes": False}
SHORT = {**BARE, "details": False}
PQ = (("PQ", "{pq}"), ("of things", "{pq_things}"), ("of stuff", "{pq_stuff}"))
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
CELLS = ("platelets", "red cells", "white cells")
CPU = ("CPU-s", "{cpu_seconds}")
COST = (("Compilation, s", "{compile}"), ("Peak RAM, GB", "{memory}"))

VIEWS = {
    "classification-short": View("classification.top1", (*RUN, *TOP1[1:], SPENT[0]), **SHORT),
    "classification": View(
        "classification.top1",
        (
            TOP1[0],
            ("Weights at the start", "{weights}"),
            ("Data", "{data}"),
            ("Schedule", "{schedule}"),
            TOP1[1],
            ("Top-5, %", "{top5}"),
            ("Published, %", "{published[top1]} ({published[source]})"),
            ("Hardware", "{hardware}"),
            ("Time", "{time}"),
            ("Notes", "{notes}"),
        ),
        commands=True,
    ),
    "detection-short": View("detection.quickstart detection.bccd", (*RUN, *AP, SPENT[0]), **SHORT),
    "bccd": View(
        "detection.bccd",
        (
            ("Experiment", "`{experiment}`"),
            ("Weights at the start", "{weights}"),
            ("Size", "{size}"),
            ("Schedule", "{schedule}"),
            *AP,
            ("AP75", "{ap75}"),
            *SPENT,
        ),
        commands=True,
    ),
    "bccd-classes": View(
        "detection.bccd",
        (("AP", "`{experiment}`"), *((name, f"{{per_class[{name}]}}") for name in CELLS)),
        **BARE,
    ),
    "scenes": View(
        "detection.quickstart",
        (("Experiment", "`{experiment}`"), ("Trained for", "{schedule}"), *AP, SPENT[0]),
        commands=True,
    ),
    "segmentation-short": View(
        "segmentation.quickstart segmentation.camvid fused.camvid", (*RUN, *MIOU, SPENT[0]), **SHORT
    ),
    "camvid": View(
        "segmentation.camvid",
        (
            ("Experiment", "`{experiment}`"),
            ("Weights at the start", "{weights}"),
            ("Schedule", "{schedule}"),
            *MIOU,
            *SPENT,
        ),
        commands=True,
    ),
    "own-data": View(
        "own_data.layouts",
        (
            ("Layout", "{layout}"),
            ("Learned: model", "{task}: `{model}`"),
            ("Images", "{images}"),
            ("Steps", "{steps}"),
            *((f"`{name}`", f"{{{name}}}") for name in ("check", "train", "eval", "predict", "report", "export")),
            ("Result", "{result}"),
            ("Ultralytics first needs", "{ultralytics}"),
            ("torchvision's references first need", "{torchvision}"),
        ),
    ),
    "camvid-classes": View(
        "segmentation.camvid",
        (("IoU", "{name}"), *((name, f"{{iou[{name}]}}") for name in CAMVID)),
        **BARE,
    ),
    "camvid-published": View("segmentation.camvid_published", (("Model", "{model}"), ("mIoU", "{miou}"))),
    "scene-masks": View(
        "segmentation.quickstart",
        (("Experiment", "`{experiment}`"), ("Trained for", "{schedule}"), *MIOU, SPENT[0]),
        commands=True,
    ),
    "fused-scenes": View(
        "fused.quickstart",
        (("Experiment", "`{experiment}`"), ("Trained for", "{schedule}"), *MIOU, *AP, *PQ, *SPENT),
        commands=True,
    ),
    "fused-camvid": View(
        "fused.camvid",
        (("Experiment", "`{experiment}`"), ("Schedule", "{schedule}"), *MIOU, *AP, *PQ, *SPENT),
        commands=True,
    ),
    "fused-camvid-classes": View(
        "fused.camvid", (("IoU", "`{experiment}`"), *((name, f"{{iou[{name}]}}") for name in CAMVID)), **BARE
    ),
    "nuclei": View(
        "fused.nuclei",
        (
            *(("Experiment", "`{experiment}`"), ("Schedule", "{schedule}"), ("Mask AP", "{mask_ap}")),
            *(("Mask AP50", "{mask_ap50}"), ("Box AP", "{ap}"), ("AJI", "{aji}"), *SPENT),
        ),
        commands=True,
    ),
    "nuclei-jaccard": View(
        "fused.nuclei",
        (
            ("TP / (TP + FP + FN) at IoU", "`{experiment}`"),
            *((f"0.{5 + k}", f"{{jaccard[{letter}]}}") for k, letter in enumerate("abcde")),
        ),
        **BARE,
    ),
    "canvas-trained": View(
        "canvas.trained",
        (
            ("Network", "{model}"),
            ("Images", "{images}"),
            ("Canvas", "{canvas}"),
            ("Pixels that change class, %", "{changed_percent}"),
            ("More than {border} pixels from the border, %", "{changed_inside_percent}"),
        ),
        commands=True,
    ),
    "canvas-segmenters": View(
        "canvas.segmenters",
        (("Network", "`{model}`"), ("Pixels that change class, %", "{changed_percent}")),
        commands=True,
    ),
    "canvas-detectors": View(
        "canvas.detectors",
        (("Network", "`{model}`"), ("AP against its own detections", "{ap}")),
        commands=True,
    ),
    "train-step": View(
        "speed.train_step",
        (
            ("", "{name}"),
            ("CPU with", "{cpu}"),
            ("CPU-s per step", "{cpu_seconds}"),
            ("images/s", "{images_per_second}"),
            ("Relative to plain linen", "{ratio}"),
        ),
        commands=True,
    ),
    "convolutions": View(
        "speed.convolutions",
        (("Kernel", "{kind}"), ("", "{work}"), ("CPU-ms", "{here}"), ("CPU-ms, torch", "{torch}")),
        commands=True,
    ),
    "forward": View(
        "speed.forward", (("", "{name}"), ("Batch 1", "{batch_1}"), ("Batch 8", "{batch_8}")), commands=True
    ),
    "detectors": View(
        "speed.detectors",
        (
            *(("Model", "`{model}`"), ("", "{setting}"), ("Batch", "{batch}")),
            *(CPU, ("CPU-s, reference", "{reference}"), *COST),
            *(("Peak RAM of the reference, GB", "{reference_memory}"), ("Notes", "{notes}")),
        ),
        commands=True,
    ),
    "segmenters": View(
        "speed.segmenters",
        (
            ("", "{model}"),
            ("", "{setting}"),
            CPU,
            ("CPU-s, torch", "{torch}"),
            *COST,
            ("Peak RAM of torch, GB", "{torch_memory}"),
            ("Notes", "{notes}"),
        ),
        commands=True,
    ),
    "evaluation-memory": View(
        "speed.evaluation_memory",
        (
            ("", "{data}"),
            ("Batch of training, whole", "{batch_before} ({logits_before})"),
            ("Batch of training, image by image", "{batch} ({logits})"),
            ("`eval_batch_size=1`", "{single} ({logits_single})"),
        ),
    ),
    "memory": View("speed.memory", (("", "{name}"), ("State", "{state:,}"), ("Kept", "{kept:,}")), commands=True),
    "memory-compiled": View(
        "speed.memory_compiled",
        (("", "{name}"), ("State", "{state:,}"), ("Temporaries", "{temporaries:,}"), ("Total", "{total:,}")),
        commands=True,
    ),
    "compiled": View(
        "speed.compiled",
        (
            ("", "{name}"),
            ("Read", "{read}"),
            ("Written", "{written}"),
            ("Float32", "{float32}"),
            ("Moved", "{moved}"),
            ("Passes", "{passes}"),
            ("Temporaries", "{memory}"),
        ),
        commands=True,
    ),
    "fused-speed": View("speed.fused", (("", "{name}"), ("ms", "{milliseconds}"), *COST), commands=True),
    "nms": View("speed.nms", (("", "{name}"), ("ms", "{milliseconds}")), commands=True),
    "coco-ap": View("speed.coco_ap", (("", "{name}"), ("CPU-s", "{cpu_seconds}")), commands=True),
    "input-pipeline": View(
        "speed.input_pipeline", (("", "{name}"), ("Images per CPU-second", "{images_per_cpu_second}")), commands=True
    ),
    "prepared": View(
        "speed.prepared",
        (
            ("Images per CPU-second", "{name}"),
            ("Original JPEGs", "{original:,}"),
            ("Prepared", "{prepared:,}"),
            ("Ratio", "{ratio}"),
        ),
        commands=True,
    ),
    "input-scale": View(
        "speed.input_scale",
        (
            ("", "{name}"),
            ("First batch, s", "{first}"),
            ("Resumed, s", "{resume}"),
            ("MB per worker", "{worker} ({worker_before:,})"),
            ("MB of the main process", "{main}"),
        ),
        commands=True,
    ),
    "input-processes": View(
        "speed.input_processes",
        (
            ("Processes x devices", "{name}"),
            ("Images per CPU-second of all", "{images_per_cpu_second:,}"),
            ("Same batches", "{same}"),
        ),
        commands=True,
    ),
    "loop": View(
        "speed.loop",
        (
            ("", "{name}"),
            ("First step after, s", "{first_step}"),
            ("images/s", "{images_per_second:,}"),
            ("Input wait, %", "{input_wait}"),
            ("Peak RAM, MB", "{memory}"),
        ),
        commands=True,
    ),
    "resume": View(
        "speed.resume",
        (
            ("Kills", "{kills}"),
            ("When", "{when}"),
            ("Parameters", "{parameters}"),
            ("Best checkpoint", "{best}"),
            ("Metrics", "{metrics}"),
        ),
        commands=True,
    ),
}


def render(view: View) -> str:
    """The Markdown of a region, between its two marks."""
    tables = [_table(name) for name in view.tables.split()]
    rows = [row for table in tables for row in table["rows"] if view.details or not row.get("detail")]
    columns = [(heading, template) for heading, template in view.columns if any(_filled(template, row) for row in rows)]
    lines = [[_filled(heading, rows[0]) for heading, _ in columns], ["---"] * len(columns)]
    for row in rows:
        first, *others = [_filled(template, row) for _, template in columns]
        if any(others):
            lines.append([first, *(other or NOTHING for other in others)])
    blocks = ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
    if view.about:
        blocks.insert(0, " ".join(table["about"] for table in tables))
    notes = [note for table in tables for note in table["notes"]]
    hardware = [f"Hardware: {table['hardware']}." for table in tables if "hardware" in table]
    if view.notes and (hardware or notes):
        blocks.append(" ".join([*hardware, *notes]))
    commands = [made["command"] for made in [*tables, *rows] if "command" in made]
    if view.commands and commands:
        shown = "\n".join(" \\\n    ".join(command) for command in commands)
        blocks.append(f"```bash\n{shown}\n```")
    return "\n\n".join(blocks) + "\n"


def _table(name: str) -> dict[str, Any]:
    """A table of docs/results; numbers with a point are kept as they are written there: 89.80 has two digits."""
    file, _, key = name.partition(".")
    return json.loads((DOCS / "results" / f"{file}.json").read_text(encoding="utf-8"), parse_float=str)[key]


def _filled(template: str, row: dict[str, Any]) -> str:
    """`template` with the values of `row`; "" where it lacks one."""
    try:
        return string.Formatter().vformat(template, (), row)
    except KeyError:
        return ""


def rendered(text: str) -> str:
    """A page with all its regions as the JSON has them. Raises KeyError for a region that VIEWS does not have."""
    return REGION.sub(lambda found: found[1] + render(VIEWS[found[2]]) + found[3], text)


def main(arguments: list[str]) -> int:
    changed = []
    for page in [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]:
        before = page.read_text(encoding="utf-8")
        after = rendered(before)
        if after != before:
            changed.append(page.relative_to(DOCS.parent))
            if "--check" not in arguments:
                page.write_text(after, encoding="utf-8")
    for page in changed:
        print(f"{page}: {'out of date; run: python docs/tables.py' if '--check' in arguments else 'written'}")
    return int("--check" in arguments and bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
