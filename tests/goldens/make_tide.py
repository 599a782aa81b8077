"""Makes tide.json: what tidecv 1.0.1 says of drawn detections.

    pip install --no-deps tidecv==1.0.1 appdirs
    PYTHONPATH=.. python tests/goldens/make_tide.py     # from a clone that is called morphism

Its plots need packages that its numbers do not; those are left out here.
"""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

sys.modules |= {name: MagicMock() for name in ("cv2", "seaborn", "pandas")}
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np  # noqa: E402
from drawn_detections import draw_batches, ellipses, known_to_tide  # noqa: E402
from tidecv import TIDE, Data  # noqa: E402

NAMES = {"Cls": "cls", "Loc": "loc", "Both": "both", "Dupe": "dupe", "Bkg": "bkg", "Miss": "miss"}
SPECIAL = {"FalsePos": "fp", "FalseNeg": "fn"}
SEEDS = range(6)


def judged(seed: int, mode: str) -> dict:
    truth, found = Data("truth"), Data("found")
    for batch in known_to_tide(draw_batches(seed)):
        for row, image in enumerate(batch["id"].tolist()):
            truth.add_image(image, str(image))
            for data, front in ((truth, "true_"), (found, "")):
                boxes, classes = batch[f"{front}boxes"][row], batch[f"{front}classes"][row]
                for slot in np.flatnonzero(classes >= 0).tolist():
                    x0, y0, x1, y1 = boxes[slot].astype(float).tolist()
                    [counts] = ellipses(boxes[slot : slot + 1])
                    mask = {"size": [400, 400], "counts": counts}
                    place = {"box": [x0, y0, x1 - x0, y1 - y0], "mask": mask}
                    if not front:
                        data.add_detection(image, int(classes[slot]), float(batch["scores"][row, slot]), **place)
                    elif batch["true_crowd"][row, slot]:
                        data.add_ignore_region(image, int(classes[slot]), **place)
                    else:
                        data.add_ground_truth(image, int(classes[slot]), **place)
    tide = TIDE()
    run = tide.evaluate(truth, found, mode=mode)
    main, special = (each["found"] for each in (tide.get_main_errors(), tide.get_special_errors()))
    dap = {NAMES[name]: value / 100 for name, value in main.items()}
    dap |= {SPECIAL[name]: value / 100 for name, value in special.items()}
    errors = {NAMES[kind.short_name]: count for kind, count in run.count_errors().items()}
    return {"ap50": run.ap / 100, "dap": dap, "errors": errors}


if __name__ == "__main__":
    values = {
        mode: [judged(seed, {"boxes": TIDE.BOX, "masks": TIDE.MASK}[mode]) for seed in SEEDS]
        for mode in ("boxes", "masks")
    }
    Path(__file__).with_name("tide.json").write_text(json.dumps(values, indent=1) + "\n")
