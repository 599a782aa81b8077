import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.models.fpn import FeaturePyramid, upsample


@pytest.mark.parametrize("height", [1, 2, 7, 64, 333])
@pytest.mark.parametrize("less", [0, 1])
def test_upsampling_takes_the_pixels_that_torchs_nearest_takes(height, less):
    """torch.nn.functional.interpolate: pixel i of n is pixel floor(i * float32(h / n)) of h."""
    n = 2 * height - less
    x = np.random.default_rng(0).normal(size=(1, height, 3, 2)).astype(np.float32)
    rows = (np.arange(n, dtype=np.float32) * np.float32(height / n)).astype(int)
    columns = (np.arange(5, dtype=np.float32) * np.float32(3 / 5)).astype(int)
    np.testing.assert_array_equal(upsample(jnp.asarray(x), n, 5), x[:, rows][:, :, columns])


def test_the_pooled_level_is_every_second_pixel_of_the_last():
    maps = [jnp.ones((1, 9, 12, 4)), jax.random.normal(jax.random.key(0), (1, 5, 6, 8))]
    levels, variables = FeaturePyramid("pool", channels=3).init_with_output(jax.random.key(1), maps)
    assert [x.shape for x in levels] == [(1, 9, 12, 3), (1, 5, 6, 3), (1, 3, 3, 3)]
    np.testing.assert_array_equal(levels[2], levels[1][:, ::2, ::2])
    assert set(variables["params"]) == {f"{kind}_blocks.{level}.0" for kind in ("inner", "layer") for level in (0, 1)}
