"""Plans of small mosaics, and boxes in their images."""

import jax.numpy as jnp
import numpy as np

from morphism.augment.mosaic_plan import Plan, corners

HEIGHT, WIDTH, SLOTS = 24, 32, 6
SIZES = np.array([[32, 20], [24, 24], [32, 24], [28, 17]])  # width and height of the four images
CANVAS = jnp.array([WIDTH, HEIGHT], jnp.float32)


def plan(**changes):
    sources, center = np.array([2, 3, 0, 1]), np.array([21.0, 15.0])
    made = {
        "sources": sources,
        "center": center,
        "offsets": corners(jnp.array(center), jnp.array(SIZES[sources], jnp.float32)),
        "forward": np.eye(2, 3),
        "flip": False,
        "shown": CANVAS,
        "partner": 0,
        "partner_weight": 0.0,
        "partner_scale": 1.0,
        "partner_flip": False,
        "partner_offset": np.zeros(2),
    }
    dtypes = {bool: jnp.bool_, int: jnp.int32, float: jnp.float32}
    changed = {name: np.asarray(value) for name, value in (made | changes).items()}
    return Plan(**{k: jnp.asarray(x, dtypes.get(type(x.flat[0].item()))) for k, x in changed.items()})


def annotated():
    """Of each of the four: boxes within the image, the last slots unused."""
    rng = np.random.default_rng(1)
    start = rng.uniform(0, 0.6, (4, SLOTS, 2)) * SIZES[:, None]
    boxes = np.concatenate([start, start + rng.uniform(1, 9, (4, SLOTS, 2))], axis=-1)
    boxes = np.minimum(boxes, np.tile(SIZES, 2)[:, None]).astype(np.float32)
    classes = np.arange(4 * SLOTS).reshape(4, SLOTS)
    used = np.arange(SLOTS) < np.array([[2], [0], [1], [2]])
    return boxes, classes, used


PLACED = {
    "as it is": {},
    "mapped": {"forward": np.array([[0.7, 0.1, 2.5], [-0.15, 0.9, 3.25]])},
    "flipped": {"forward": np.array([[0.6, 0, 1], [0, 0.6, 2]]), "flip": True},
    "mixed": {"partner_weight": 0.5, "partner_scale": 1.25, "partner_flip": True, "partner_offset": np.array([5, 3])},
}
