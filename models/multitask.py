"""Several tasks over one backbone: detectors, segmenters and classifiers that share their feature maps.

A network has parts, each with a name, a head and the head's options:

    config.model.name = "multitask"
    config.model.heads = {
        "objects": {"name": "yolox"},
        "ground": {"name": "semantic_fpn", "options": {"channels": 64}},
    }
    config.model.options.update(backbone="darknet", depth=0.33, width=0.5)

Parameters of the backbone are `backbone.*`, under the names of the reference that it is taken from; those of a part
are `<part>.*`, followed by the names that the head has as a network of its own. So weights of torchvision's Mask R-CNN
fit the part "instances" by config.init_rename = (r"^(rpn|roi_heads)\\. -> instances.\\1.",).

    panoptic_fpn_resnet50    45,973,990 parameters at 80 things and 54 classes of stuff, with frozen batch norm, 206.57
                             GMAC at 800x800; COCO val2017 of detectron2's, 1x and 3x: PQ 39.4, 41.5; box AP 37.6, 40.0;
                             mask AP 34.7, 36.5

Source of the last: Kirillov et al. 2019, "Panoptic feature pyramid networks"; detectron2's panoptic_fpn_R_50.
"""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float

from morphism.errors import UserError, check_choice, did_you_mean
from morphism.models import resnet, vgg
from morphism.models.arguments import check_options, grouped, options_of
from morphism.models.base import Images, Model, Sizes
from morphism.models.deeplab import DeepLabHead, rates
from morphism.models.detection import Detector, ResNetDetector, Targets
from morphism.models.faster_rcnn import FasterRCNN
from morphism.models.fpn import FeaturePyramid, Maps
from morphism.models.layers import BatchNorm, Dtype, torch_bias, torch_uniform
from morphism.models.mask_rcnn import MaskRCNN
from morphism.models.retinanet import RetinaNet
from morphism.models.segmentation import FCNHead, at_size_of
from morphism.models.semantic_fpn import SemanticFPNHead
from morphism.models.yolox import YOLOX, check_size
from morphism.ops.precision import full_precision

DARKNET = "darknet"
BACKBONES = (*resnet.MODELS, *vgg.MODELS, DARKNET)
NECKS = ("fpn", "none")
LOSS_WEIGHTS = ("fixed", "learned")
Levels = dict[int, Float[Array, "b _h _w _c"]]  # level l has a stride of 2^l pixels

HEAD = ("name", "options", "targets")  # fields of a head
RESERVED = ("backbone", "log_variance")  # names that no part can have


class LinearHead(nn.Module):
    """The mean over a map and a dense layer: [B, h, w, C] -> logits [B, K]. `dropout` is before the dense layer."""

    num_classes: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b {self.num_classes}"]:
        x = jnp.mean(full_precision(x), axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = {"kernel_init": torch_uniform, "bias_init": torch_bias(x.shape[-1])}
        return nn.Dense(self.num_classes, **init, name="fc")(x)


HEADS = {
    "yolox": YOLOX,
    "retinanet": RetinaNet,
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
    "semantic_fpn": SemanticFPNHead,
    "fcn": FCNHead,
    "deeplabv3": DeepLabHead,
    "linear": LinearHead,
}
OF_NETWORK = ("num_classes", "dtype", "norm", "remat")  # arguments of heads that no head has as an option
# More of them by kind of head: what the network sets to a value of its own, and what belongs to a backbone.
SET = {ResNetDetector: ("channels", "bn_epsilon"), YOLOX: ("width", "depthwise"), nn.Module: ("first", "rates")}
OF_BACKBONE = {
    ResNetDetector: ("backbone", "backbone_width", "stride_in_1x1", "neck"),
    YOLOX: ("depth", "darknet53", "bn_epsilon", "bn_momentum"),
    nn.Module: (),
}


class Multitask(Model):
    """images [B, H, W, 3]  ->  {part: outputs of that part}, each as its task expects them.

    A detector's part has the outputs that the part's `reader` interprets; a segmenter's {"out": logits float32
    [B, H, W, K]}; a classifier's logits [B, K]. With learned weights of the losses there is also "log_variance", {part:
    scalar}.

    The call takes `targets`, a batch without its images, for two-stage detectors and for the images' sizes; without
    targets all of every canvas is image, and two-stage detectors cannot train. An example whose `has_boxes` is False
    is a row of padding to detectors.

    Which maps a head works on:
      yolox: strides 8, 16 and 32. retinanet: P3 to P7. faster_rcnn, mask_rcnn: P2 to P5, and a fifth for the RPN.
      semantic_fpn: all maps up to stride 32; with its option `finest` also finer ones, the backbone's own.
      fcn, deeplabv3: the neck's finest map, at its stride; without a neck the backbone's last.
      linear: the backbone's last map; the darknet's is the neck's last.

    Args:
      heads: {part: {"name": one of HEADS, "options": the head's own, "targets": {target of its task: the batch's name
        of it, where that is another}}}; the last two may be left out.
      num_classes: classes of each part, or one number for all.
      backbone: one of models/resnet.py or models/vgg.py; or "darknet", YOLOX's CSPDarknet with its own neck, which
        takes images of 0..255 and, as YOLOX does, reverses their channels.
      neck: "fpn", a feature pyramid as the detectors have it (P2 to P5; P3 to P7 where only RetinaNets are on it), or
        "none". The darknet's is its own.
      backbone_width: channels of the first stage of a ResNet or VGG.
      channels: of the feature pyramid.
      output_stride: of a ResNet without a neck. stride_in_1x1: of a ResNet (models/resnet.py).
      bn_epsilon: of the batch norms of a ResNet, of its pyramid and of the detectors on it.
      depth, width, depthwise: of the darknet and of YOLOX's head (models/yolox.py).
      loss_weights: "fixed"; or "learned", with a parameter "log_variance.<part>" per part, at first 0 (Kendall et al.
        2018, "Multi-task learning using uncertainty").
      remat: of a ResNet.
    """

    reads: ClassVar[tuple[str, ...]] = ("targets",)

    heads: Mapping[str, Any] = FrozenDict()
    num_classes: int | Mapping[str, int] = 80
    dtype: Dtype = jnp.float32
    norm: partial = partial(BatchNorm)
    remat: str = ""
    backbone: str = "resnet50"
    neck: str = "fpn"
    backbone_width: int = 64
    channels: int = 256
    output_stride: int = 32
    stride_in_1x1: bool = False
    bn_epsilon: float = 1e-5
    depth: float = 1.0
    width: float = 1.0
    depthwise: bool = False
    loss_weights: str = "fixed"

    @nn.compact
    def __call__(self, images: Images, *, train: bool, targets: Targets | None = None) -> dict[str, Any]:
        self.check_parts()
        levels, finer, last = self._maps(images, train)
        sizes = None if targets is None else targets["size"]
        outputs: dict[str, Any] = {}
        for part in self.heads:
            head = self._head(part, min(levels, default=0), name=part)
            if isinstance(head, Detector):
                given = {"targets": self._targets(part, targets)} if head.reads else {}
                outputs[part] = head(images, train=train, maps=_maps_of(head, levels), **given)
            elif isinstance(head, LinearHead):
                outputs[part] = head(last, train=train)
            else:
                logits = self._segment(head, levels, finer, last, sizes, train)
                outputs[part] = {"out": at_size_of(images, logits)}
        if self.loss_weights == "learned":
            zeros = nn.initializers.zeros
            outputs["log_variance"] = {part: self.param(f"log_variance.{part}", zeros, ()) for part in self.heads}
        return outputs

    @nn.nowrap
    def reader(self, part: str) -> nn.Module:
        """What interprets a part's outputs: its Detector; for other parts their head."""
        return self._head(part, 0, parent=None)

    @nn.nowrap
    def _head(self, part: str, finest: int, **where: Any) -> nn.Module:
        """The head of a part; `finest` is the level of the finest map, 0 where there are no levels."""
        make, classes = HEADS[self.heads[part]["name"]], self.num_classes
        given = {name: getattr(self, name) for name in ("dtype", "norm", *SET[kind_of(make)]) if hasattr(self, name)}
        given |= {"num_classes": classes if isinstance(classes, int) else classes[part], "first": finest}
        if make is DeepLabHead:
            given["rates"] = rates(8 if self.neck == "fpn" else self.output_stride)
        given = {name: value for name, value in given.items() if name in inspect.signature(make).parameters}
        return make(**given, **grouped(self.heads[part].get("options", {}), make), **where)

    @nn.nowrap
    def _targets(self, part: str, targets: Targets | None) -> Targets | None:
        """The batch as a detector's part knows it: rows without its truths are padding."""
        if targets is None:
            return None
        head = self.heads[part]
        names = {name: name for name in ("boxes", "masks")[: 2 if head["name"] == "mask_rcnn" else 1]}
        names |= head.get("targets", {})
        own = targets | {name: targets[other] for name, other in names.items() if other in targets}
        known = f"has_{names['boxes']}"
        return own | {"valid": targets["valid"] & targets[known]} if known in targets else own

    @nn.nowrap
    def _segment(
        self, head: nn.Module, levels: Levels, finer: Levels, last: Array, sizes: Sizes | None, train: bool
    ) -> Float[Array, "b _h _w k"]:
        """The logits of a segmentation head at the size of its map."""
        if isinstance(head, SemanticFPNHead):
            return head([x for level, x in (finer | levels).items() if head.level <= level <= 5], train=train)
        x = last if self.neck == "none" else levels[min(levels)]
        if isinstance(head, FCNHead):
            return head(x, train=train)
        stride = self.output_stride if self.neck == "none" else 2 ** min(levels)
        return head(x, None if sizes is None else -(-sizes // stride), train=train)

    @nn.nowrap
    def _maps(self, images: Images, train: bool) -> tuple[Levels, Levels, Array]:
        """The maps of the neck, finest first; the backbone's own that are finer; and the backbone's last map."""
        if self.backbone == DARKNET:
            check_size(DARKNET, *images.shape[1:3])
            options = {name: getattr(self, name) for name in ("dtype", "norm", "depth", "width", "depthwise")}
            stem, dark2, *maps = YOLOX(**options, parent=None).maps(images, train, finer=True)
            return dict(enumerate(maps, start=3)), {1: stem, 2: dark2}, maps[-1]
        maps = self._features(images, train)
        pyramid, first = self._pyramid(train) if self.neck == "fpn" else (None, 2)
        finer, coarser = dict(enumerate(maps[: first - 1], start=1)), maps[first - 1 :]
        if pyramid is not None:
            coarser = pyramid(coarser)
        elif self.output_stride != 32:
            coarser = []
        return dict(enumerate(coarser, start=first)), finer, maps[-1]

    @nn.nowrap
    def _features(self, images: Images, train: bool) -> list[Array]:
        """The backbone's maps at strides 2, 4, 8, 16 and 32, or as its output stride has them."""
        name = "backbone" if self.neck == "none" else "backbone.body"
        options: dict[str, Any] = {"dtype": self.dtype, "width": self.backbone_width, "name": name}
        if self.backbone in vgg.MODELS:
            if self.neck == "fpn":
                check_size(self.backbone, *images.shape[1:3])  # its poolings round down, the pyramid's maps up
            body = vgg.MODELS[self.backbone](**options, norm=self.norm)
            return list(body(images, train=train, features=True).values())[1:]
        options |= {"norm": partial(self.norm, epsilon=self.bn_epsilon), "remat": self.remat}
        options |= {"output_stride": self.output_stride, "stride_in_1x1": self.stride_in_1x1}
        body = resnet.MODELS[self.backbone](**options)
        return list(body(images, train=train, features=True).values())

    @nn.nowrap
    def _pyramid(self, train: bool) -> tuple[FeaturePyramid, int]:
        """The pyramid that the detectors on it have, and the level of its finest map.

        It is RetinaNet's if there is one: two-stage detectors make their coarsest map of P5.
        """
        readers = [self.reader(part) for part in self.heads]
        on_it = [reader for reader in readers if isinstance(reader, ResNetDetector)]
        retinanets = [reader for reader in on_it if isinstance(reader, RetinaNet)]
        if not on_it:
            return FeaturePyramid("pool", self.channels, self.dtype, name="backbone.fpn"), 2
        return (retinanets or on_it)[0].pyramid(train), 3 if retinanets == on_it else 2

    @nn.nowrap
    def check_parts(self) -> None:
        options = "config.model.options"
        check_choice(f"{options}.backbone", self.backbone, BACKBONES)
        check_choice(f"{options}.neck", self.neck, NECKS)
        check_choice(f"{options}.loss_weights", self.loss_weights, LOSS_WEIGHTS)
        if self.backbone == DARKNET and self.neck == "none":
            raise UserError(f"{options}.neck: the darknet has its own; set it to 'fpn'")
        if self.output_stride != 32 and (self.neck == "fpn" or self.backbone not in resnet.MODELS):
            raise UserError(f"{options}.output_stride: it is for a ResNet with neck='none'; set it to 32")
        if self.remat and self.backbone not in resnet.MODELS:
            raise UserError(f"config.model.remat: {self.backbone} has no use for it; set it to False")
        if not self.heads:
            raise UserError(
                'config.model.heads is empty; give each part a head: {"objects": {"name": "yolox"}, "ground": {"name": '
                '"semantic_fpn"}}'
            )
        for part in self.heads:
            self._check_head(part)
        if isinstance(self.num_classes, Mapping) and set(self.num_classes) != set(self.heads):
            raise UserError(
                f"config.model.heads has the parts {', '.join(self.heads)}; the task has {', '.join(self.num_classes)}"
            )

    @nn.nowrap
    def _check_head(self, part: str) -> None:
        head, path = self.heads[part], f"config.model.heads.{part}"
        if not part.isidentifier() or part in RESERVED:
            raise UserError(f"{path}: name the part by a word of letters, other than {' and '.join(RESERVED)}")
        for field in head:
            if field not in HEAD:
                hint = did_you_mean(field, HEAD) or f"; a head has {', '.join(HEAD)}"
                raise UserError(f"{path}.{field}: no such field{hint}")
        name = head.get("name", "")
        check_choice(f"{path}.name", name, HEADS)
        check_options(f"{path}.options", name, head.get("options", {}), head_options(name))
        own_maps = self.neck == "none" or self.backbone == DARKNET
        if issubclass(HEADS[name], ResNetDetector) and own_maps:
            raise UserError(f"{path}.name: {name} needs the feature pyramid of a ResNet or VGG: neck='fpn'")
        if name in ("yolox", "semantic_fpn") and self.output_stride != 32:
            raise UserError(
                f"{path}.name: {name} needs maps at strides up to 32; set config.model.options.output_stride to 32"
            )
        if not 0 <= head.get("options", {}).get("finest", 0) <= 5:
            raise UserError(f"{path}.options.finest: a map has a level of 1 to 5; 0 is the neck's finest")
        if name == "deeplabv3" and self.neck == "none":
            rates(self.output_stride)


def head_options(name: str) -> dict[str, Any]:
    """The options of a head, with their defaults."""
    make, kind = HEADS[name], kind_of(HEADS[name])
    return options_of(make, without=(*OF_NETWORK, *SET[kind], *OF_BACKBONE[kind]))


def kind_of(make: type[nn.Module]) -> type[nn.Module]:
    """Which kind of SET and OF_BACKBONE a head is."""
    return next(kind for kind in SET if issubclass(make, kind))


def _maps_of(head: Detector, levels: Levels) -> Maps:
    """The maps that a detector works on."""
    if isinstance(head, FasterRCNN):
        return [*(levels[level] for level in (2, 3, 4, 5)), levels[5][:, ::2, ::2]]
    return [levels[level] for level in ((3, 4, 5, 6, 7) if isinstance(head, RetinaNet) else (3, 4, 5))]


# detectron2's: no deltas and masks of the background, L1 losses, aligned RoI Align, 1,000 proposals in training too.
PANOPTIC_FPN = FrozenDict(
    {
        "instances": {
            "name": "mask_rcnn",
            "options": {"background": False, "smooth_l1_beta": 0.0, "aligned": True, "train_proposals": 1000},
        },
        "segmentation": {"name": "semantic_fpn"},
    }
)

MODELS = {
    "multitask": Multitask,
    "panoptic_fpn_resnet50": partial(Multitask, heads=PANOPTIC_FPN),
}
