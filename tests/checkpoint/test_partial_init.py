"""A LambdaResNet from weights of a network without lambda layers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from lambda_det import get_cfg
from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.coverage import Coverage, coverage_report, measure
from lambda_det.checkpoint.fitting import fit
from lambda_det.checkpoint.image_format import IMAGENET
from lambda_det.errors import InputError

BLOCKS = ["res4.5", "res4.11", "res4.17", "res5.0", "res5.1", "res5.2"]  # of λ-101, from 0


def config(variant: str = "lambda", depth: int = 101, **keys):
    cfg = get_cfg()
    node = cfg.MODEL.LAMBDA_RESNET
    node.VARIANT, node.DEPTH = variant, depth
    cfg.INPUT.FORMAT = (
        IMAGENET.channel_order
    )  # else the first convolution is fitted to detectron2's
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = map(list, (IMAGENET.pixel_mean, IMAGENET.pixel_std))
    for key, value in keys.items():
        node[key] = value
    return cfg


def save(folder: Path, tensors: dict) -> str:
    torch.save(tensors, folder / "w.pth")
    return str(folder / "w.pth")


def timm_resnetrs101() -> dict:
    """resnetrs101's tensors under timm's names; without timm our own network under our names."""
    try:
        import timm
    except ModuleNotFoundError:
        return build_lambda_resnet(101, "se", num_classes=1000).state_dict()
    return timm.create_model("resnetrs101").state_dict()


def of_blocks(names, pattern: str) -> list[str]:
    return [n for n in names if re.fullmatch(rf"(res\d\.\d+)\.(?:{pattern})\..*", n)]


@pytest.fixture(scope="module")
def lambda_101(tmp_path_factory: pytest.TempPathFactory) -> tuple[Coverage, dict]:
    """Coverage of a λ-101 from resnetrs101, and its state."""
    torch.manual_seed(0)
    file = save(tmp_path_factory.mktemp("rs"), timm_resnetrs101())
    network = build_lambda_resnet(101, "lambda")
    coverage = load_weights(network, file, cfg=config(PARTIAL_INIT=True))
    return coverage, network.state_dict()


def test_random_are_exactly_the_lambda_layers_and_their_norms(lambda_101) -> None:
    coverage, state = lambda_101
    expected = [
        name
        for name in state
        if re.match(r"res\d\.\d+\.(lambda_layer|lambda_norm)\.", name)
        and not name.endswith("num_batches_tracked")
    ]
    assert {name.rsplit(".lambda_", 1)[0] for name in expected} == set(BLOCKS)
    assert coverage.random() == expected and not coverage.wrong_shape
    assert 0.97 < coverage.share() < 1 and coverage.share(but=expected) == 1


def test_unused_are_exactly_the_convolutions_and_late_se(lambda_101) -> None:
    coverage = lambda_101[0]
    unused = coverage.unexpected
    convolutions = {n.partition(".conv2.")[0] for n in of_blocks(unused, "conv2")}
    assert convolutions == set(BLOCKS)
    squeezes = {n.partition(".se.")[0] for n in of_blocks(unused, "se")}
    assert squeezes == {f"res4.{i}" for i in range(23)} | {f"res5.{i}" for i in range(3)}
    assert len(unused) == 5 * len(BLOCKS) + 4 * 26
    assert coverage.unused_classifier == ["linear.weight", "linear.bias"]


def test_the_report_says_so(lambda_101) -> None:
    text = coverage_report(lambda_101[0])
    lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    assert lines["not in the file, stays random"].split(", ") == [
        "res4.[5,11,17].lambda_layer.*", "res4.[5,11,17].lambda_norm.*",
        "res5.[0,1,2].lambda_layer.*", "res5.[0,1,2].lambda_norm.*",
    ]  # fmt: skip
    unused = lines["in the file but not in the model, unused"]
    assert "res4.[5,11,17].conv2.*" in unused and "res5.[0,1,2].se.*" in unused
    assert "res2" not in unused and "res3" not in unused and "stem" not in unused


def test_everything_else_is_the_files(tmp_path: Path) -> None:
    expected = build_lambda_resnet(50, "se").state_dict()
    network = build_lambda_resnet(50, "lambda")
    load_weights(network, save(tmp_path, expected), cfg=config(depth=50, PARTIAL_INIT=True))
    state = network.state_dict()
    shared = [name for name in state if name in expected and "num_batches" not in name]
    assert len(shared) > 250
    assert all(torch.equal(state[name], expected[name]) for name in shared)


def test_without_the_key_it_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    file = save(tmp_path, build_lambda_resnet(50, "se").state_dict())
    with pytest.raises(InputError, match=r"MODEL\.LAMBDA_RESNET\.PARTIAL_INIT True") as error:
        load_weights(build_lambda_resnet(50, "lambda"), file, cfg=config(depth=50))
    assert "\n" not in str(error.value) and "res4.2.lambda_layer" in str(error.value)


def test_from_an_ordinary_resnet_se_stays_random_too(tmp_path: Path) -> None:
    import torchvision

    file = save(tmp_path, torchvision.models.resnet50(weights=None).state_dict())
    cfg = config(depth=50, STEM="v1", PARTIAL_INIT=True)
    coverage = load_weights(build_lambda_resnet(50, "lambda", stem="v1"), file, cfg=cfg)
    modules = {re.match(r"(res\d)\.\d+\.(\w+)\.", n).groups() for n in coverage.random()}
    assert modules == {
        ("res2", "se"), ("res3", "se"),
        ("res4", "lambda_layer"), ("res4", "lambda_norm"),
        ("res5", "lambda_layer"), ("res5", "lambda_norm"),
    }  # fmt: skip
    assert {re.match(r"(res\d\.\d+\.\w+)", n)[1] for n in coverage.unexpected} == {
        "res4.2.conv2", "res5.0.conv2", "res5.1.conv2", "res5.2.conv2"
    }  # fmt: skip


def test_it_does_not_excuse_anything_else(tmp_path: Path) -> None:
    state = build_lambda_resnet(50, "resnet").state_dict()
    del state["res3.1.conv2.weight"]
    cfg = config(depth=50, PARTIAL_INIT=True)
    with pytest.raises(InputError, match=r"1 tensors are missing \(first: res3\.1\.conv2"):
        load_weights(build_lambda_resnet(50, "lambda"), save(tmp_path, state), cfg=cfg)
    wrong = build_lambda_resnet(50, "lambda", query_depth=8).state_dict()
    with pytest.raises(InputError, match=r"different shape \(first: res4\.2\.lambda_layer"):
        load_weights(build_lambda_resnet(50, "lambda"), save(tmp_path, wrong), cfg=cfg)


def resnet_with_active_branches(**arguments) -> dict:
    network = build_lambda_resnet(50, "resnet", **arguments)
    for name, parameter in network.named_parameters():
        if name.endswith("conv3.norm.weight"):
            torch.nn.init.constant_(parameter, 0.7)
    return network.state_dict()


def test_blocks_with_a_random_middle_start_as_identity(tmp_path: Path) -> None:
    file = save(tmp_path, resnet_with_active_branches())
    keys = {"depth": 50, "PARTIAL_INIT": True}
    for as_identity in (False, True):
        network = build_lambda_resnet(50, "lambda").eval()
        cfg = config(**keys, PARTIAL_INIT_AS_IDENTITY=as_identity)
        coverage = load_weights(network, file, cfg=cfg)
        kept = [f"{b}.conv3.norm.weight" for b in ("res4.2", "res5.0", "res5.1", "res5.2")]
        assert coverage.kept_zero == (kept if as_identity else [])
        assert all(name not in coverage.random() for name in kept)
        for stage in ("res3", "res4", "res5"):
            for index, block in enumerate(getattr(network, stage)):
                zero = as_identity and f"{stage}.{index}.conv3.norm.weight" in kept
                assert torch.all(block.conv3.norm.weight == (0.0 if zero else 0.7))
        x = torch.rand(1, 2048, 5, 7)
        assert torch.equal(network.res5[1](x), x) == as_identity


@pytest.mark.parametrize(
    ("lacks", "is_random"),
    [
        ("lambda_layer.embedding", True),
        ("lambda_layer.query.weight", True),
        ("lambda_layer.value.weight", True),
        ("conv2.weight", True),
        ("lambda_layer.position_bias", False),
        ("conv2.norm.weight", False),
    ],
)
def test_a_block_is_random_without_what_makes_its_middle(lacks: str, is_random: bool) -> None:
    names = [f"res5.1.{name}" for name in (lacks, "lambda_norm.weight", "conv3.norm.weight")]
    tensors = {name: torch.ones(1) for name in names[1:]}
    found = fit(tensors, dict.fromkeys(names, (1,)), names, as_identity=True)
    assert found.kept_zero == (names[2:] if is_random else [])


def test_identity_leaves_a_block_alone_whose_middle_is_loaded(tmp_path: Path) -> None:
    """Else evaluating, or going on from, a trained network would lose it."""
    network = build_lambda_resnet(50, "lambda")
    torch.nn.init.constant_(network.res5[0].conv3.norm.weight, 0.7)
    file = save(tmp_path, network.state_dict())
    other = build_lambda_resnet(50, "lambda")
    cfg = config(depth=50, PARTIAL_INIT=True, PARTIAL_INIT_AS_IDENTITY=True)
    assert not load_weights(other, file, cfg=cfg).kept_zero
    assert torch.all(other.res5[0].conv3.norm.weight == 0.7)


def test_smaller_windows_are_padded_to_the_same_function(tmp_path: Path) -> None:
    arguments = {"out_features": ("res4",), "position_bias": True}
    small = build_lambda_resnet(50, "lambda", scope=9, **arguments).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in small.parameters():
        if parameter.dim() == 4 and parameter.shape[-1] < 9:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    large = build_lambda_resnet(50, "lambda", scope=23, **arguments).eval()
    for name, parameter in small.named_parameters():
        if name.endswith("conv3.norm.weight"):
            torch.nn.init.constant_(parameter, 0.5)
    coverage = load_weights(large, save(tmp_path, small.state_dict()))
    assert coverage.share() == 1
    x = torch.randn(1, 3, 97, 131)
    with torch.no_grad():
        a, b = small(x)["res4"], large(x)["res4"]
    assert ((a - b).abs().max() / a.abs().max()) < 1e-5
    with pytest.raises(
        InputError, match="different shape"
    ):  # the other way something would be lost
        load_weights(small, save(tmp_path, large.state_dict()))


def test_kept_tensors_count_for_neither_side() -> None:
    coverage = measure({"res2.0.a": (4,), "res2.0.b": (4,)}, {"res2.0.a": (4,)}, kept_zero=[])
    kept = measure(
        {"res2.0.a": (4,), "res2.0.b": (4,)},
        {"res2.0.a": (4,), "res2.0.b": (4,)},
        kept_zero=["res2.0.b"],
    )
    assert coverage.share() == 0.5 and kept.share() == 1 and kept.loaded == ["res2.0.a"]
