"""Faster R-CNN as torchvision has it (Ren et al. 2015), on a feature pyramid (Lin et al. 2016), and on C4.

A region proposal network finds boxes that may hold something; a second stage looks at the features under each, says
what it is, and moves the box. Submodules carry torchvision's names (torchvision/models/detection/faster_rcnn.py,
rpn.py, roi_heads.py). At 90 classes, where the first has its batch norm frozen, multiply-accumulates at 800x800 with
1,000 proposals, box AP on COCO val2017 of torchvision's COCO_V1:

    fasterrcnn_resnet50_fpn       41,755,286 parameters   134.38 GMAC    37.0
    fasterrcnn_resnet50_fpn_v2    43,712,278              280.37         46.7
    fasterrcnn_resnet50_c4        the original network as detectron2 has it, which publishes 35.7
"""

from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from morphism.errors import UserError, check_choice
from morphism.models import resnet
from morphism.models.detection import Detections, learnt, suppressed
from morphism.models.fpn import FeaturePyramid, Maps
from morphism.models.layers import BatchNorm, Dtype, conv, flatten, full_precision, relu, torch_bias, torch_uniform
from morphism.ops.anchors import anchors
from morphism.ops.boxes import clip, decode, encode, iou, smooth_l1
from morphism.ops.losses import binary_cross_entropy, cross_entropy
from morphism.ops.matching import BELOW, match
from morphism.ops.nms import nms
from morphism.ops.roi_align import multilevel_roi_align
from morphism.ops.sampling import sample_balanced

ASPECT_RATIOS = (0.5, 1.0, 2.0)
ANCHOR_IOU = (0.3, 0.7)  # anchors below are background, from the second on an object's, between neither
PROPOSAL_IOU = (0.5, 0.5)
POSITIVE_ANCHORS, POSITIVE_PROPOSALS = 0.5, 0.25  # of those that are sampled, at most
MIN_PROPOSAL, MIN_DETECTION = 1e-3, 1e-2  # sides in pixels
CODE_WEIGHTS = (10, 10, 5, 5)  # of the coordinates in the second stage's regression
POOLED = {"fpn": 7, "c4": 14}  # bins a side
COUNTS = (  # options of at least 1
    *("train_candidates", "candidates", "train_proposals", "proposals"),
    *("anchor_samples", "box_samples", "detections"),
)

Samples = dict[str, Array]


class RPNHead(nn.Module):
    """`depth` 3x3 convolutions, then whether there is something and where, for each of a pixel's `anchors`.

    maps, finest first -> objectness [B,A], deltas [B,A,4], A over the levels, in each over rows, columns and the
    pixel's anchors.
    """

    depth: int
    anchors: int
    dtype: Dtype

    @nn.compact
    def __call__(self, maps: Maps) -> tuple[Float[Array, "b a"], Float[Array, "b a 4"]]:
        layer = partial(conv, dtype=self.dtype, bias=True, kernel_init=nn.initializers.normal(0.01))
        body = []
        for index in range(self.depth):
            body += [layer(maps[0].shape[-1], 3, name=f"conv.{index}.0"), relu]
        objectness, deltas = layer(self.anchors, 1, name="cls_logits"), layer(self.anchors * 4, 1, name="bbox_pred")
        levels = [reduce(lambda x, function: function(x), body, x) for x in maps]
        pictures = len(maps[0])
        return (
            jnp.concatenate([objectness(x).reshape(pictures, -1) for x in levels], axis=1),
            jnp.concatenate([deltas(x).reshape(pictures, -1, 4) for x in levels], axis=1),
        )


def linear(features: int, name: str, dtype: Dtype, fan_in: int) -> nn.Dense:
    """torch.nn.Linear as torch begins it."""
    inits = {"kernel_init": torch_uniform, "bias_init": torch_bias(fan_in)}
    return nn.Dense(features, dtype=dtype, **inits, name=name)


class TwoDense(nn.Module):
    """[n,7,7,C] -> [n,width]: torchvision's TwoMLPHead."""

    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n {self.width}"]:
        x = flatten(x)
        for name in ("fc6", "fc7"):
            x = relu(linear(self.width, name, self.dtype, x.shape[-1])(x))
        return x


class FourConvolutions(nn.Module):
    """[n,7,7,C] -> [n,width], by 3x3 convolutions with batch norm and a dense layer: FastRCNNConvFCHead of v2."""

    width: int
    norm: partial
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n {self.width}"]:
        for index in range(4):
            x = conv(x.shape[-1], 3, dtype=self.dtype, name=f"{index}.0")(x)
            x = relu(self.norm(name=f"{index}.1")(x))
        x = flatten(x)
        return relu(linear(self.width, "5", self.dtype, x.shape[-1])(x))


class LastStage(nn.Module):
    """[n,14,14,C] -> [n,2C]: the last stage of a ResNet, and the mean of its 7x7 pixels: detectron2's Res5ROIHeads."""

    backbone: str
    width: int
    stride_in_1x1: bool
    norm: partial
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n d"]:
        shape = resnet.MODELS[self.backbone].keywords
        block, channels, groups = shape["block"], 8 * self.width, shape.get("groups", 1)
        options: dict[str, Any] = {"norm": self.norm, "dtype": self.dtype, "zero_init_residual": False}
        if block is resnet.Bottleneck:
            width = channels * shape.get("width_per_group", 64) // 64 * groups
            options |= {"width": width, "groups": groups, "dilation": 1, "stride_in_1x1": self.stride_in_1x1}
        for index in range(shape["layers"][3]):
            x = block(channels=channels, stride=1 if index else 2, **options, name=f"layer4.{index}")(x)
        return jnp.mean(full_precision(x), axis=(1, 2))


class BoxPredictor(nn.Module):
    """[n,F] -> the logits of the background and the classes [n,K+1], and a box for each [n,K+1,4]; in float32."""

    outputs: int

    @nn.compact
    def __call__(self, x: Float[Array, "n f"]) -> tuple[Float[Array, "n k"], Float[Array, "n k 4"]]:
        x = full_precision(x)
        logits = linear(self.outputs, "cls_score", x.dtype, x.shape[-1])(x)
        deltas = linear(4 * self.outputs, "bbox_pred", x.dtype, x.shape[-1])(x)
        return logits, deltas.reshape(len(x), self.outputs, 4)


class FasterRCNN(nn.Module):
    """images [B,H,W,3], any H and W >= 1  ->  what `loss` and `detect` read.

    objectness [B,A] and rpn_bbox_regression [B,A,4] of all anchors; anchors, a level [A_l,4], in pixels; proposals
    [B,P,4] within each picture, best first, their proposal_scores [B,P], and proposal_valid [B,P], False for slots
    that none fills, whose box and score are 0. Then of every proposal class_logits [B,P,num_classes + 1], output 0 the
    background and c + 1 class c, and box_regression [B,P,num_classes + 1,4]; in training of `box_samples` of them and
    of the true boxes instead, and anchor_samples and box_samples say which those and the anchors of the loss are. All
    float32.

    targets: models/detection.py's, of which evaluation reads `size` alone; without, all of every image is picture.
    Training draws its samples with the rng "sampling", a picture's by its `id` and `draw`.

    neck: "fpn", or "c4": both stages on the third stage of the backbone, at stride 16, and its fourth as the box head.
    version: 2 is torchvision's v2, of a pyramid: two convolutions in the RPN, four and one dense layer in the box head,
    batch norm in it and in the pyramid.
    backbone: one of models/resnet.py's; stride_in_1x1 is that of a backbone of bottlenecks.
    bn_epsilon: of all batch norms. torchvision sets it to 0 where it loads the COCO_V1 weights of its first version.
    backbone_width: its channels in the first stage; channels: those of the pyramid; head_width: of the dense layers;
    anchor_size: of the smallest anchors, in pixels. These, a half or a quarter of torchvision's, make a detector for
    small pictures.
    remat: recomputes each of the backbone's blocks in the backward pass: less memory, more time.
    sampling_ratio, aligned: ops/roi_align.py's.
    train_candidates, candidates: the best anchors that a level keeps for non-maximum suppression, in training and in
    evaluation; train_proposals, proposals: how many boxes it keeps of them all, proposal_nms_threshold: their largest
    IoU on a level.
    anchor_samples, box_samples: of how many anchors and proposals a picture's losses are taken.
    score_threshold: detections score higher; nms_threshold: the largest IoU of two detections of a class; detections:
    how many a picture has at most.
    smooth_l1_beta: of both stages' losses of boxes; 0 is L1, which detectron2 has.
    """

    num_classes: int = 90
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    remat: bool = False
    neck: str = "fpn"
    version: int = 1
    backbone: str = "resnet50"
    backbone_width: int = 64
    channels: int = 256
    head_width: int = 1024
    anchor_size: int = 32
    stride_in_1x1: bool = False
    bn_epsilon: float = 1e-5
    sampling_ratio: int = 2
    aligned: bool = False
    train_candidates: int = 2000
    candidates: int = 1000
    train_proposals: int = 2000
    proposals: int = 1000
    proposal_nms_threshold: float = 0.7
    anchor_samples: int = 256
    box_samples: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100
    smooth_l1_beta: float = 1 / 9

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool, targets: dict[str, Array] | None = None
    ) -> dict[str, Any]:
        self._check()
        if train and targets is None:
            raise ValueError("a two-stage detector is trained with targets")
        pictures, canvas = len(images), images.shape[1:3]
        sizes = jnp.tile(jnp.array(canvas), (pictures, 1)) if targets is None else targets["size"]
        norm = partial(self.norm, epsilon=self.bn_epsilon, train=train)

        maps = self._maps(images, norm, train)
        sides = [[self.anchor_size * 2**level] for level in range(len(maps))]
        if self.neck == "c4":
            sides = [[self.anchor_size * 2**number for number in range(5)]]
        levels = [
            jnp.asarray(anchors([x.shape[1:3]], canvas, [each], ASPECT_RATIOS))
            for x, each in zip(maps, sides, strict=True)
        ]
        head = RPNHead(self.version, len(ASPECT_RATIOS) * len(sides[0]), self.dtype, name="rpn.head")
        objectness, deltas = map(full_precision, head(maps))
        candidates, count = (
            (self.train_candidates, self.train_proposals) if train else (self.candidates, self.proposals)
        )
        found = jax.vmap(partial(propose, levels, candidates, count, self.proposal_nms_threshold))(
            *jax.lax.stop_gradient((objectness, deltas)), sizes
        )
        boxes, scores, valid = found
        outputs = {
            "objectness": objectness,
            "rpn_bbox_regression": deltas,
            "anchors": tuple(levels),
            "proposals": boxes,
            "proposal_scores": scores,
            "proposal_valid": valid,
        }
        if train:
            keys = picture_keys(self.make_rng("sampling"), targets)
            samples = partial(sample, anchors=self.anchor_samples, proposals=self.box_samples)
            truth = (targets["boxes"], targets["classes"], learnt(targets), targets["valid"])
            outputs["anchor_samples"], outputs["box_samples"] = jax.vmap(partial(samples, jnp.concatenate(levels)))(
                keys, boxes, valid, *truth
            )
            boxes = outputs["box_samples"]["boxes"]

        pooled = multilevel_roi_align(
            maps if self.neck == "c4" else maps[:-1],
            boxes,
            canvas,
            POOLED[self.neck],
            self.sampling_ratio,
            self.aligned,
        )
        features = self._box_head(norm)(pooled.reshape(-1, *pooled.shape[2:]))
        logits, deltas = BoxPredictor(self.num_classes + 1, name="roi_heads.box_predictor")(features)
        shape = boxes.shape[:2]
        return outputs | {
            "class_logits": logits.reshape(*shape, -1),
            "box_regression": deltas.reshape(*shape, -1, 4),
        }

    def _maps(self, images: Array, norm: partial, train: bool) -> list[Array]:
        make = resnet.MODELS[self.backbone]
        stages = make.keywords["layers"][: 3 if self.neck == "c4" else 4]
        body = make(
            layers=stages,
            dtype=self.dtype,
            norm=norm,
            remat=self.remat,
            stride_in_1x1=self.stride_in_1x1,
            width=self.backbone_width,
            name="backbone.body",
        )
        maps = body(images, train=train, features=True)
        if self.neck == "c4":
            return [maps["layer3"]]
        pyramid_norm = norm if self.version == 2 else None
        pyramid = FeaturePyramid("pool", self.channels, self.dtype, pyramid_norm, name="backbone.fpn")
        return pyramid([maps[f"layer{stage}"] for stage in (1, 2, 3, 4)])

    def _box_head(self, norm: partial) -> nn.Module:
        name = "roi_heads.box_head"
        if self.neck == "c4":
            return LastStage(self.backbone, self.backbone_width, self.stride_in_1x1, norm, self.dtype, name=name)
        if self.version == 2:
            return FourConvolutions(self.head_width, norm, self.dtype, name=name)
        return TwoDense(self.head_width, self.dtype, name=name)

    @nn.nowrap
    def loss(self, outputs: dict[str, Any], targets: dict[str, Array]) -> dict[str, Float[Array, ""]]:
        """Of both stages the cross-entropy and the matched boxes' smooth L1 distance, sums by the count of all sampled.

        targets: models/detection.py's. Source: Ren et al. 2015, section 3.1.2; Girshick 2015, "Fast R-CNN", section
        2.3; torchvision's compute_loss and fastrcnn_loss.
        """
        samples, boxes = outputs["anchor_samples"], outputs["box_samples"]
        sampled, positive = samples["number"], samples["positive"]
        logits = jnp.take_along_axis(outputs["objectness"], sampled, axis=1)
        deltas = jnp.take_along_axis(outputs["rpn_bbox_regression"], sampled[..., None], axis=1)
        wanted = encode(samples["matched"], jnp.concatenate(outputs["anchors"])[sampled])
        label = boxes["label"]
        moved = jnp.take_along_axis(outputs["box_regression"], label[..., None, None], axis=2)[:, :, 0]
        goal = encode(boxes["matched"], boxes["boxes"], CODE_WEIGHTS)

        def mean(of: Samples, values: Float[Array, "b n"], counted: Bool[Array, "b n"]) -> Float[Array, ""]:
            return jnp.sum(jnp.where(counted, values, 0)) / jnp.maximum(jnp.sum(of["used"]), 1)

        def apart(a: Array, b: Array) -> Float[Array, "b n"]:
            return jnp.sum(smooth_l1(a - b, self.smooth_l1_beta), axis=-1)

        return {
            "objectness": mean(samples, binary_cross_entropy(logits, positive), samples["used"]),
            "rpn_bbox_regression": mean(samples, apart(deltas, wanted), positive),
            "classification": mean(boxes, jax.vmap(cross_entropy)(outputs["class_logits"], label), boxes["used"]),
            "bbox_regression": mean(boxes, apart(moved, goal), label > 0),
        }

    @nn.nowrap
    def detect(self, outputs: dict[str, Any], sizes: Int[Array, "b 2"]) -> Detections:
        """Of each picture the best detections, by falling score; `sizes` are the pictures' height and width.

        Of every proposal a box a class, then non-maximum suppression in each class: torchvision's
        postprocess_detections.
        """
        classes = outputs["class_logits"].shape[-1] - 1
        # A proposal's probabilities are at most 1 together, so that only so many are above the threshold.
        likely = classes if self.score_threshold <= 0 else min(classes, int(1 / self.score_threshold))

        def picture(logits: Array, deltas: Array, proposals: Array, valid: Array, size: Array) -> dict[str, Array]:
            boxes = clip(decode(deltas[:, 1:], proposals[:, None], CODE_WEIGHTS), size).reshape(-1, 4)
            usable = jnp.repeat(valid, classes) & _at_least(boxes, MIN_DETECTION)
            scores = jnp.where(usable, jax.nn.softmax(logits)[:, 1:].ravel(), -1)
            scores, best = jax.lax.top_k(scores, len(proposals) * likely)
            found = (boxes[best], scores, best % classes)
            return suppressed(*found, max(self.score_threshold, 0), self.nms_threshold, self.detections)

        given = [outputs[name] for name in ("class_logits", "box_regression", "proposals", "proposal_valid")]
        return jax.vmap(picture)(*given, sizes)

    def _check(self) -> None:
        options = "config.model.options"
        check_choice(f"{options}.backbone", self.backbone, resnet.MODELS)
        check_choice(f"{options}.neck", self.neck, POOLED)
        if self.version not in (1, 2):
            raise UserError(f"{options}.version is {self.version}; it must be 1 or 2")
        if self.neck == "c4" and self.version == 2:
            raise UserError(f"{options}.version: 2 is torchvision's second version with a pyramid; set neck to 'fpn'")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise UserError(f"{options}.{name} is {getattr(self, name)}; it must be at least 1")
        if self.sampling_ratio < 0:
            raise UserError(f"{options}.sampling_ratio is {self.sampling_ratio}; it must be at least 0")


def propose(
    levels: list[Float[Array, "_a 4"]],
    candidates: int,
    count: int,
    nms_threshold: float,
    objectness: Float[Array, "a"],
    deltas: Float[Array, "a 4"],
    size: Int[Array, "2"],
) -> tuple[Float[Array, "{count} 4"], Float[Array, "{count}"], Bool[Array, "{count}"]]:
    """One picture's proposals, by falling score, within its `size`, their scores, and which slots are filled.

    Of every level the best `candidates` anchors, then non-maximum suppression in each level, and the best `count` of
    all levels. Source: Ren et al. 2015, section 3.3; Lin et al. 2016, section 4.1; torchvision's filter_proposals.
    """
    ends = np.cumsum([len(level) for level in levels])[:-1]
    boxes, scores, numbers = [], [], []
    split = zip(levels, jnp.split(objectness, ends), jnp.split(deltas, ends), strict=True)
    for number, (level, logits, moves) in enumerate(split):
        best, rows = jax.lax.top_k(logits, min(candidates, len(level)))
        boxes.append(clip(decode(moves[rows], level[rows]), size))
        scores.append(jax.nn.sigmoid(best))
        numbers.append(jnp.full(len(rows), number))
    boxes, scores, numbers = map(jnp.concatenate, (boxes, scores, numbers))
    kept, valid = nms(boxes, scores, nms_threshold, count, numbers, _at_least(boxes, MIN_PROPOSAL))
    return jnp.where(valid[:, None], boxes[kept], 0), jnp.where(valid, scores[kept], 0), valid


def sample(
    all_anchors: Float[Array, "a 4"],
    key: Key[Array, ""],
    found: Float[Array, "p 4"],
    filled: Bool[Array, "p"],
    boxes: Float[Array, "n 4"],
    classes: Int[Array, "n"],
    learnt: Bool[Array, "n"],
    valid: Bool[Array, ""],
    *,
    anchors: int,
    proposals: int,
) -> tuple[Samples, Samples]:
    """What one picture's losses are taken of: so many anchors, and so many of its proposals and true boxes.

    Of the anchors their number, whether they are positive, and the box they are matched with; of the boxes themselves,
    that box, and their label, 0 for the background, c + 1 for class c; of both which slots are used: none of a row of
    padding, whose `valid` is False.
    """
    anchor_key, box_key = jax.random.split(key)
    matches = match(iou(boxes, all_anchors), learnt, *ANCHOR_IOU, force_best=True)
    quota = (anchors, POSITIVE_ANCHORS)
    number, positive, used = sample_balanced(anchor_key, matches >= 0, matches == BELOW, *quota)
    of_anchors = {
        "number": number,
        "positive": positive & valid,
        "matched": boxes[jnp.maximum(matches[number], 0)],
        "used": used & valid,
    }
    found, usable = jnp.concatenate([found, boxes]), jnp.concatenate([filled, learnt])
    matches = match(iou(boxes, found), learnt, *PROPOSAL_IOU, force_best=False)
    quota = (proposals, POSITIVE_PROPOSALS)
    number, positive, used = sample_balanced(box_key, usable & (matches >= 0), usable & (matches == BELOW), *quota)
    matched = jnp.maximum(matches[number], 0)
    of_boxes = {
        "boxes": found[number],
        "label": jnp.where(positive & valid, classes[matched] + 1, 0),
        "matched": boxes[matched],
        "used": used & valid,
    }
    return of_anchors, of_boxes


def picture_keys(key: Key[Array, ""], targets: dict[str, Array]) -> Key[Array, "b"]:
    """A key for each picture, the same in whatever batch and on whichever device it stands."""
    fold = jax.random.fold_in
    return jax.vmap(lambda draw, number: fold(fold(key, draw), number))(targets["draw"], targets["id"])


def _at_least(boxes: Float[Array, "n 4"], side: float) -> Bool[Array, "n"]:
    return jnp.all(boxes[:, 2:] - boxes[:, :2] >= side, axis=-1)


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
