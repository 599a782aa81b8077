"""Faster R-CNN as torchvision has it (Ren et al. 2015), on a feature pyramid (Lin et al. 2016), and on C4.

A region proposal network (models/rpn.py) finds boxes that may hold an object; the second stage (models/roi_heads.py)
crops the features of each, classifies it and refines the box. Submodules carry torchvision's names
(torchvision/models/detection/faster_rcnn.py). At 90 classes, the first network with frozen batch norm,
multiply-accumulates at 800x800 with 1,000 proposals, box AP on COCO val2017 of torchvision's COCO_V1:

    fasterrcnn_resnet50_fpn       41,755,286 parameters   134.38 GMAC    37.0
    fasterrcnn_resnet50_fpn_v2    43,712,278              280.37         46.7
    fasterrcnn_resnet50_c4        the original network as detectron2 has it, which publishes 35.7
"""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from morphism.errors import UserError, check_choice
from morphism.models import roi_heads
from morphism.models.base import Images, Sizes
from morphism.models.detection import Detections, PostProcess, ResNetDetector, Targets, trainable
from morphism.models.fpn import FeaturePyramid, Maps
from morphism.models.rpn import RPNHead, propose, rpn_loss, sample_anchors
from morphism.ops.anchors import AnchorGenerator
from morphism.ops.precision import full_precision
from morphism.ops.roi_align import multilevel_roi_align

POOLED = {"fpn": 7, "c4": 14}  # bins per side
COUNTS = (  # options of at least 1
    *("train_candidates", "candidates", "train_proposals", "proposals"),
    *("anchor_samples", "box_samples", "detections"),
)


class FasterRCNN(ResNetDetector):
    """images [B, H, W, 3], any H and W >= 1  ->  what `loss` and `detect` read.

    The call also takes `targets`, as models/detection.py lists them. Evaluation reads their `size` alone; without
    targets all of every canvas is image. It takes `maps` in place of the backbone's: four of a pyramid, at strides 4 to
    32, and one at stride 64. Training draws its samples with the rng "sampling", those of an image by its
    `id` and `draw`.

    Args:
      neck: "fpn", or "c4": both stages on the third stage of the backbone, at stride 16, with its fourth as box head.
      version: 2 has two convolutions in the RPN, four and a dense layer in the box head, and batch norm in the box head
        and the pyramid, which it needs.
      head_width: of the dense layers of the box head.
      sampling_ratio, aligned: of RoI Align (ops/roi_align.py).
      train_candidates, candidates: anchors per level that enter non-maximum suppression, at most, in training and in
        evaluation.
      train_proposals, proposals: boxes that the RPN keeps per image, at most.
      proposal_nms_threshold: largest IoU of two proposals of one level.
      anchor_samples, box_samples: anchors and proposals sampled per image for the loss.
      smooth_l1_beta: of the box losses of both stages, for the box_loss "smooth_l1"; 0 is L1, which detectron2 has.
      box_loss: of both stages.
      background: the second stage has box deltas of the background too, which are never trained, as torchvision has
        them and detectron2 has not.
      post_process: options of the last step.
      rpn_anchor_generator: AnchorGenerator with the sizes of each map's anchors.
      rpn_head: module, called as rpn_head(maps, train=) -> objectness [B, A], deltas [B, A, 4].
      box_roi_pool: function, called as box_roi_pool(maps, boxes [B, P, 4], canvas) -> [B, P, s, s, C].
      box_head: module, called as box_head([n, s, s, C], train=) -> [n, F].
      box_predictor: module, called as box_predictor([n, F]) -> logits [n, K + 1], deltas [n, K + 1, 4].
    The others are those of ResNetDetector. With a `backbone` in Python, both stages work on all of its maps.

    Evaluation of a batch that is `judged` draws samples as well, without an rng, so that it has a loss.

    Returns, all float32:
      objectness [B, A], rpn_bbox_regression [B, A, 4] and the anchors of each level [A_l, 4] in pixels;
      proposals [B, P, 4] within each image, best first, proposal_scores [B, P], and proposal_valid [B, P], False for
      unused slots, whose box and score are 0;
      class_logits [B, P, K + 1], output 0 being the background and output c + 1 class c, and box_regression
      [B, P, K + 1, 4], in training of the sampled proposals;
      in training also anchor_samples and box_samples, the samples of both stages (models/rpn.py, roi_heads.py);
      in evaluation of a judged batch these, too, and "sampled", the logits and deltas of the sampled proposals.

    A detector of one class on one map of another backbone:

    >>> import jax, jax.numpy as jnp
    >>> from functools import partial
    >>> from morphism import models
    >>> from morphism.models.faster_rcnn import FasterRCNN
    >>> from morphism.models.fpn import Backbone
    >>> from morphism.models.vgg import VGG
    >>> from morphism.ops.anchors import AnchorGenerator
    >>> from morphism.ops.roi_align import multilevel_roi_align
    >>> model = FasterRCNN(
    ...     num_classes=1,
    ...     backbone=Backbone(VGG(11, batch_norm=False, width=8), layers=("features.19",)),
    ...     rpn_anchor_generator=AnchorGenerator(sizes=((32, 64, 128),), aspect_ratios=(0.5, 1.0, 2.0)),
    ...     box_roi_pool=partial(multilevel_roi_align, size=7, sampling_ratio=2),
    ... )
    >>> variables = jax.jit(lambda: models.init(model, jax.random.key(0), (96, 128)))()
    >>> outputs = jax.jit(partial(model.apply, train=False))(variables, jnp.zeros((2, 96, 128, 3)))
    >>> detections = model.detect(outputs, jnp.array([[96, 128], [96, 100]]))
    >>> detections["boxes"].shape
    (2, 100, 4)
    """

    reads: ClassVar[tuple[str, ...]] = ("targets",)

    neck: str = "fpn"
    head_width: int = 1024
    sampling_ratio: int = 2
    aligned: bool = False
    train_candidates: int = 2000
    candidates: int = 1000
    train_proposals: int = 2000
    proposals: int = 1000
    proposal_nms_threshold: float = 0.7
    anchor_samples: int = 256
    box_samples: int = 512
    smooth_l1_beta: float = 1 / 9
    background: bool = True
    post_process: PostProcess = PostProcess(score_threshold=0.05, nms_threshold=0.5, detections=100)
    rpn_anchor_generator: AnchorGenerator | None = None
    rpn_head: nn.Module | None = None
    box_roi_pool: Any = None
    box_head: nn.Module | None = None
    box_predictor: nn.Module | None = None

    @nn.compact
    def __call__(
        self, images: Images, *, train: bool, targets: Targets | None = None, maps: Maps | None = None
    ) -> dict[str, Any]:
        self.check_options()
        if train and targets is None:
            raise ValueError("a two-stage detector is trained with targets")
        canvas = images.shape[1:3]
        sizes = jnp.tile(jnp.array(canvas), (images.shape[0], 1)) if targets is None else targets["size"]

        maps = self.maps(images, train) if maps is None else maps
        outputs = self.find_proposals(maps, canvas, sizes, train)
        found, boxes = outputs["proposals"], []
        if train or is_judged(targets):
            outputs |= self.draw_samples(outputs, targets)
            boxes = [outputs["box_samples"]["boxes"]]
        boxes = boxes if train else [found, *boxes]  # one pass of the second stage for both
        heads = self.classify(maps, jnp.concatenate(boxes, axis=1), canvas, train)
        names = "class_logits", "box_regression"
        if len(boxes) > 1:
            outputs["sampled"] = {name: x[:, found.shape[1] :] for name, x in zip(names, heads, strict=True)}
            heads = [x[:, : found.shape[1]] for x in heads]
        outputs |= dict(zip(names, heads, strict=True))
        return outputs | self.further_heads(maps, outputs, canvas, sizes, train)

    @nn.nowrap
    def maps(self, images: Images, train: bool) -> Maps:
        """The feature maps that both stages work on, finest first."""
        if not isinstance(self.backbone, str):
            return self.part(self.backbone, None, "backbone")(images, train=train)
        stages = self.resnet_maps(images, train, stages=3 if self.neck == "c4" else 4)
        if self.neck == "c4":
            return [stages["layer3"]]
        return self.pyramid(train)([stages[f"layer{stage}"] for stage in (1, 2, 3, 4)])

    @nn.nowrap
    def pyramid(self, train: bool) -> FeaturePyramid:
        norm = partial(self.norm, epsilon=self.bn_epsilon, train=train) if self.version == 2 else None
        return FeaturePyramid("pool", self.channels, self.dtype, norm, name="backbone.fpn")

    @nn.nowrap
    def find_proposals(self, maps: Maps, canvas: tuple[int, int], sizes: Sizes, train: bool) -> dict:
        """The first stage: the RPN's outputs and the proposals, as the call returns them."""
        generator = self.rpn_anchor_generator or self._anchor_generator(len(maps))
        levels = [jnp.asarray(level) for level in generator([x.shape[1:3] for x in maps], canvas)]
        standard = partial(RPNHead, self.version, generator.per_position, self.dtype)
        objectness, deltas = map(full_precision, self.part(self.rpn_head, standard, "rpn.head")(maps, train=train))
        counts = (self.train_candidates, self.train_proposals) if train else (self.candidates, self.proposals)
        boxes, scores, valid = jax.vmap(partial(propose, levels, *counts, self.proposal_nms_threshold))(
            *jax.lax.stop_gradient((objectness, deltas)), sizes
        )
        return {
            "objectness": objectness,
            "rpn_bbox_regression": deltas,
            "anchors": tuple(levels),
            "proposals": boxes,
            "proposal_scores": scores,
            "proposal_valid": valid,
        }

    @nn.nowrap
    def draw_samples(self, outputs: dict[str, Any], targets: Targets) -> dict[str, Any]:
        """The anchors and proposals that the losses are computed from."""
        key = self.make_rng("sampling") if self.has_rng("sampling") else jax.random.key(0)
        keys = jax.vmap(jax.random.split)(image_keys(key, targets))
        boxes, usable, valid = targets["boxes"], trainable(targets), targets["valid"]
        of_anchors = partial(sample_anchors, jnp.concatenate(outputs["anchors"]), self.anchor_samples)
        of_proposals = partial(roi_heads.sample_proposals, self.box_samples)
        return {
            "anchor_samples": jax.vmap(of_anchors)(keys[:, 0], boxes, usable, valid),
            "box_samples": jax.vmap(of_proposals)(
                *(keys[:, 1], outputs["proposals"], outputs["proposal_valid"]),
                *(boxes, targets["classes"], usable, valid),
            ),
        }

    @nn.nowrap
    def classify(
        self, maps: Maps, boxes: Float[Array, "b p 4"], canvas: tuple[int, int], train: bool
    ) -> tuple[Float[Array, "b p k"], Float[Array, "b p k 4"]]:
        """The second stage: class logits and box deltas of each box."""
        pooled = (self.box_roi_pool or self._pool)(maps, boxes, canvas)
        head = self.part(self.box_head, self._box_head(), "roi_heads.box_head")
        standard = partial(roi_heads.FastRCNNPredictor, self.num_classes + 1, self.background)
        predictor = self.part(self.box_predictor, standard, "roi_heads.box_predictor")
        logits, deltas = map(full_precision, predictor(head(pooled.reshape(-1, *pooled.shape[2:]), train=train)))
        shape = boxes.shape[:2]
        return logits.reshape(*shape, -1), deltas.reshape(*shape, -1, 4)

    @nn.nowrap
    def further_heads(
        self, maps: Maps, outputs: dict[str, Any], canvas: tuple[int, int], sizes: Sizes, train: bool
    ) -> dict[str, Any]:
        """More outputs, of heads that a subclass adds: masks of samples or detections, semantic segmentation."""
        return {}

    @nn.nowrap
    def loss(self, outputs: dict[str, Any], targets: Targets) -> dict[str, Float[Array, ""]]:
        """Classification and box losses of both stages, each divided by the number of samples."""
        outputs = outputs | outputs.get("sampled", {})
        options, anchors = (self.box_loss, self.smooth_l1_beta), jnp.concatenate(outputs["anchors"])
        first = outputs["objectness"], outputs["rpn_bbox_regression"], anchors, outputs["anchor_samples"]
        second = outputs["class_logits"], outputs["box_regression"], outputs["box_samples"]
        return rpn_loss(*first, *options) | roi_heads.roi_loss(*second, *options)

    @nn.nowrap
    def detect(self, outputs: dict[str, Any], sizes: Sizes) -> Detections:
        """The best detections of each image, by descending score; `sizes` are the images' height and width."""
        given = [outputs[name] for name in ("class_logits", "box_regression", "proposals", "proposal_valid")]
        return jax.vmap(partial(roi_heads.detect_in_image, self.post_process))(*given, sizes)

    @nn.nowrap
    def _anchor_generator(self, levels: int) -> AnchorGenerator:
        """One size per level of a pyramid, twice that of the level before; five sizes on the single map of C4."""
        if self.neck == "c4":
            return AnchorGenerator((tuple(self.anchor_size * 2**number for number in range(5)),))
        return AnchorGenerator(tuple((self.anchor_size * 2**level,) for level in range(levels)))

    @nn.nowrap
    def _pool(self, maps: Maps, boxes: Float[Array, "b p 4"], canvas: tuple[int, int]) -> Float[Array, "b p s s c"]:
        options = (POOLED[self.neck], self.sampling_ratio, self.aligned)
        return multilevel_roi_align(self.second_stage(maps), boxes, canvas, *options)

    @nn.nowrap
    def second_stage(self, maps: Maps) -> Maps:
        """The maps that boxes are cropped from: the standard pyramid's coarsest is for the RPN alone."""
        return maps[:-1] if self.neck == "fpn" and isinstance(self.backbone, str) else maps

    @nn.nowrap
    def _box_head(self) -> partial:
        norm = partial(self.norm, epsilon=self.bn_epsilon)
        if self.neck == "c4":
            options = (self.backbone, self.backbone_width, self.stride_in_1x1, norm, self.dtype)
            return partial(roi_heads.Res5Head, *options)
        if self.version == 2:
            return partial(roi_heads.FastRCNNConvFCHead, self.head_width, norm, self.dtype)
        return partial(roi_heads.TwoMLPHead, self.head_width, self.dtype)

    @nn.nowrap
    def check_options(self) -> None:
        super().check_options()
        options = "config.model.options"
        check_choice(f"{options}.neck", self.neck, POOLED)
        if self.neck == "c4" and self.version == 2:
            raise UserError(f"{options}.version: 2 is torchvision's second version with a pyramid; set neck to 'fpn'")
        for name in COUNTS:
            value = getattr(self.post_process if name == "detections" else self, name)
            if value < 1:
                raise UserError(f"{options}.{name} is {value}; it must be at least 1")
        if self.sampling_ratio < 0:
            raise UserError(f"{options}.sampling_ratio is {self.sampling_ratio}; it must be at least 0")


def is_judged(targets: Targets | None) -> bool:
    """Whether a batch of evaluation has the truths that a loss needs."""
    return targets is not None and "judged" in targets


def image_keys(key: Key[Array, ""], targets: Targets) -> Key[Array, "b"]:
    """A key per image, which depends on its `id` and `draw` but not on its batch or device."""
    fold = jax.random.fold_in
    return jax.vmap(lambda draw, number: fold(fold(key, draw), number))(targets["draw"], targets["id"])


MODELS = {
    "fasterrcnn_resnet50_fpn": partial(FasterRCNN),
    "fasterrcnn_resnet50_fpn_v2": partial(FasterRCNN, version=2),
    "fasterrcnn_resnet50_c4": partial(
        FasterRCNN,
        neck="c4",
        sampling_ratio=0,
        aligned=True,
        train_candidates=12000,
        candidates=6000,
        smooth_l1_beta=0.0,
    ),
}
