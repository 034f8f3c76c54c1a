"""The rivals stand in the places of the lambda layers, and everything else is that of λ-26."""

from __future__ import annotations

from pathlib import Path

from detectron2.modeling import build_backbone

from lambda_det.backbone.kinds import arguments_of_kind
from lambda_det.comparison.suite import read_suite
from studies.evidence import image_parts

SUITE = str(Path(image_parts.__file__).parent / "nuclei_rivals.yaml")
KIND, SCOPE = "MODEL.LAMBDA_RESNET.LAYER.KIND", "MODEL.LAMBDA_RESNET.LAYER.SCOPE"


def test_the_rivals_differ_in_their_layer_alone(tmp_path):
    suite = read_suite(SUITE, str(tmp_path))
    settings = {run.model: dict(run.settings) for run in suite.runs if not run.without}
    kinds = {model: of_model.pop(KIND) for model, of_model in settings.items()}
    assert kinds == {model: model for model in suite.labels} and len(kinds) == 8
    scopes = {model: of_model.pop(SCOPE) for model, of_model in settings.items()}
    # 23 is what a kind without a window must have.
    assert {model for model, scope in scopes.items() if scope != scopes["lambda"]} == {
        model for model, kind in kinds.items() if "scope" not in arguments_of_kind(kind)
    }
    assert all(of_model == settings["lambda"] for of_model in settings.values())
    assert suite.controls == ("zeroed",)


def test_each_rival_has_its_own_parameters(tmp_path):
    suite = read_suite(SUITE, str(tmp_path))
    networks = {
        model: build_backbone(suite.configs["nuclei", model]).state_dict() for model in suite.labels
    }
    shapes = {
        model: tuple((name, tuple(tensor.shape)) for name, tensor in state.items())
        for model, state in networks.items()
    }
    assert len({*shapes.values()}) == len(shapes)
