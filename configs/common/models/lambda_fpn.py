# A network of the LambdaResNet family with FPN levels p2 to p6, by the arguments of its builder.
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool

from lambda_det.backbone import build_lambda_resnet

backbone = L(FPN)(
    bottom_up=L(build_lambda_resnet)(
        depth=101,
        variant="lambda",
        stem="rs",
        norm="BN",
        out_features=["res2", "res3", "res4", "res5"],
        freeze_at=0,
        mask_padding=True,
        zero_init_residual=True,
    ),
    in_features="${.bottom_up.out_features}",
    out_channels=256,
    norm="",
    top_block=L(LastLevelMaxPool)(),
)
