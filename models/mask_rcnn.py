"""Mask R-CNN as torchvision has it (He et al. 2017): Faster R-CNN with a mask of each detection.

Submodules carry torchvision's names (torchvision/models/detection/mask_rcnn.py). At 90 classes, the first with frozen
batch norm, multiply-accumulates at 800x800 with 1,000 proposals and 100 masks, box and mask AP on COCO val2017 of
torchvision's COCO_V1:

    maskrcnn_resnet50_fpn       44,401,393 parameters   187.59 GMAC    37.9   34.6
    maskrcnn_resnet50_fpn_v2    46,359,409              333.58         47.4   41.8

torchvision gives 134.38 for the first, without masks.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from morphism.errors import UserError
from morphism.labels import IGNORE
from morphism.models.base import Sizes
from morphism.models.detection import Detections, Targets
from morphism.models.faster_rcnn import FasterRCNN
from morphism.models.fpn import Maps
from morphism.models.layers import ConvTranspose, Dtype, conv, kaiming_fan_in, relu, torch_bias
from morphism.models.roi_heads import POSITIVES
from morphism.ops.losses import binary_cross_entropy, masked_mean
from morphism.ops.mask_targets import project_masks
from morphism.ops.precision import full_precision
from morphism.ops.roi_align import multilevel_roi_align

POOLED = 14  # bins per side; a mask has twice as many


class MaskRCNNHeads(nn.Module):
    """Four 3x3 convolutions: [n, h, w, C] -> [n, h, w, width].

    norm: batch norm of the convolutions, in training of the `counted` boxes; None: biases instead.
    """

    width: int
    norm: partial | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], counted: Bool[Array, "n"] | None, *, train: bool
    ) -> Float[Array, "n h w {self.width}"]:
        for index in range(4):
            x = conv(self.width, 3, dtype=self.dtype, bias=self.norm is None, name=f"{index}.0")(x)
            if self.norm is not None:
                x = self.norm(train=train, name=f"{index}.1")(x, counted)
            x = relu(x)
        return x


class MaskRCNNPredictor(nn.Module):
    """Mask logits of each output, at twice the size: [n, h, w, C] -> [n, 2h, 2w, outputs], in float32."""

    outputs: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 {self.outputs}"]:
        channels = x.shape[-1]
        # torch counts the inputs of a transposed convolution as its outputs, and its "fan_out" is that of ours.
        x = ConvTranspose(channels, 2, 2, dtype=self.dtype, kernel_init=kaiming_fan_in, name="conv5_mask")(x)
        last = {"dtype": self.dtype, "bias": True, "bias_init": torch_bias(channels)}
        return full_precision(conv(self.outputs, 1, **last, name="mask_fcn_logits")(relu(x)))


class MaskRCNN(FasterRCNN):
    """images [B, H, W, 3], any H and W >= 1  ->  what `loss` and `detect` read.

    Training also reads the `masks` of targets. Masks are those of the class of the sample or detection.

    Args:
      background: as in FasterRCNN; so is the mask of the background.
      mask_width: channels of the mask head.
      mask_roi_pool: function, called as mask_roi_pool(maps, boxes [B, P, 4], canvas) -> [B, P, s, s, C].
      mask_head: module, called as mask_head([n, s, s, C], counted bool [n], train=) -> [n, s, s, F]; the rows that are
        not `counted` are of no object.
      mask_predictor: module, called as mask_predictor([n, s, s, F]) -> logits [n, S, S, K + 1].
    The others are those of FasterRCNN, without the neck "c4".

    Returns, besides FasterRCNN's outputs, float32:
      in training mask_logits [B, P, S, S] of the P samples that can be positive, the first of box_samples;
      in evaluation detections, those of `detect`.
    """

    mask_width: int = 256
    mask_roi_pool: Any = None
    mask_head: nn.Module | None = None
    mask_predictor: nn.Module | None = None

    @nn.nowrap
    def further_heads(
        self, maps: Maps, outputs: dict[str, Any], canvas: tuple[int, int], sizes: Sizes, train: bool
    ) -> dict[str, Any]:
        if train:
            samples = self._positives(outputs)
            return {"mask_logits": self._masks(maps, samples["boxes"], samples["label"], canvas, train)}
        found = super().detect(outputs, sizes)
        boxes, labels, count = [found["boxes"]], [found["classes"] + 1], found["boxes"].shape[1]
        if "sampled" in outputs:
            samples = self._positives(outputs)
            boxes, labels = [*boxes, samples["boxes"]], [*labels, samples["label"]]
        logits = self._masks(maps, jnp.concatenate(boxes, axis=1), jnp.concatenate(labels, axis=1), canvas, train)
        masks = jnp.where(found["valid"][..., None, None], jax.nn.sigmoid(logits[:, :count]), 0)
        sampled = {"mask_logits": logits[:, count:]} if "sampled" in outputs else {}
        return {"detections": found | {"masks": masks}} | sampled

    @nn.nowrap
    def _positives(self, outputs: dict[str, Any]) -> dict[str, Array]:
        """The samples that can be positive, which come first."""
        return {name: x[:, : int(self.box_samples * POSITIVES)] for name, x in outputs["box_samples"].items()}

    @nn.nowrap
    def _masks(
        self, maps: Maps, boxes: Float[Array, "b p 4"], label: Int[Array, "b p"], canvas: tuple[int, int], train: bool
    ) -> Float[Array, "b p s s"]:
        """Logits of the mask of each box's `label`, which is 0 for no object."""
        x = (self.mask_roi_pool or self._pool_masks)(maps, boxes, canvas)
        x = x.reshape(-1, *x.shape[2:])
        norm = partial(self.norm, epsilon=self.bn_epsilon) if self.version == 2 else None
        standard = partial(MaskRCNNHeads, self.mask_width, norm, self.dtype)
        x = self.part(self.mask_head, standard, "roi_heads.mask_head")(x, label.ravel() > 0, train=train)
        outputs = self.num_classes + self.background
        standard = partial(MaskRCNNPredictor, outputs, self.dtype)
        logits = full_precision(self.part(self.mask_predictor, standard, "roi_heads.mask_predictor")(x))
        number = jnp.maximum(label.ravel() - (0 if logits.shape[-1] > self.num_classes else 1), 0)
        logits = jnp.take_along_axis(logits, number[:, None, None, None], axis=-1)[..., 0]
        return logits.reshape(*boxes.shape[:2], *logits.shape[1:])

    @nn.nowrap
    def _pool_masks(self, maps: Maps, boxes: Float[Array, "b p 4"], canvas: tuple[int, int]) -> Array:
        return multilevel_roi_align(self.second_stage(maps), boxes, canvas, POOLED, self.sampling_ratio, self.aligned)

    @nn.nowrap
    def loss(self, outputs: dict[str, Any], targets: Targets) -> dict[str, Float[Array, ""]]:
        """FasterRCNN's terms, and the binary cross-entropy of the masks: the mean over the positive samples.

        Samples of objects without a known mask are not counted.

        Source: He et al. 2017, section 3; torchvision's maskrcnn_loss.
        """
        losses = super().loss(outputs, targets)
        if "masks" not in targets:
            raise UserError(
                "config.data.targets: a network with a mask head is trained with the target 'masks'; take the task "
                "instances, or a network without masks"
            )
        samples, logits = self._positives(outputs), outputs["mask_logits"]
        cells = jax.vmap(lambda masks, number: masks[number])(jnp.asarray(targets["masks"]), samples["object"])
        known = cells[..., 0, 0] != IGNORE
        where = samples["matched"], samples["boxes"], jnp.asarray(targets["size"])
        masks = project_masks(cells == 1, *where, bins=logits.shape[-1])
        each = jnp.mean(binary_cross_entropy(logits, masks), axis=(-2, -1))
        counted = (samples["label"] > 0) & known
        return losses | {"mask": masked_mean(each, counted, jnp.sum(counted))}

    @nn.nowrap
    def detect(self, outputs: dict[str, Any], sizes: Sizes) -> Detections:
        """The detections that the masks were computed for; `sizes` must be those of the call."""
        return outputs["detections"]

    @nn.nowrap
    def check_options(self) -> None:
        super().check_options()
        if self.neck != "fpn":
            raise UserError("config.model.options.neck: masks are made of a feature pyramid; set it to 'fpn'")
        if int(self.box_samples * POSITIVES) < 1:
            raise UserError(
                f"config.model.options.box_samples is {self.box_samples}, of which {POSITIVES:.0%} can be positive; "
                "set it to at least 4"
            )


MODELS = {
    "maskrcnn_resnet50_fpn": partial(MaskRCNN),
    "maskrcnn_resnet50_fpn_v2": partial(MaskRCNN, version=2),
}
