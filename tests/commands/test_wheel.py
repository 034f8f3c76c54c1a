"""Wheel and sdist: what they hold, and that the wheel alone works, outside of a checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import lambda_det
from lambda_det import configs

pytestmark = pytest.mark.slow
BUILD = "import setuptools.build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"


def build(copy: Path, project: Path) -> dict[str, Path]:
    """Suffix -> file, built in a copy: a build leaves its own files beside the sources."""
    pytest.importorskip("setuptools", minversion="77")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for name in ("lambda_det", "configs", "tools", "docs", "studies"):
        shutil.copytree(project / name, copy / name, ignore=unwanted, dirs_exist_ok=True)
    for path in project.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, copy)
    (copy / "tests").mkdir()
    (copy / "tests" / "__init__.py").touch()  # not to be taken for a package of ours
    (copy / "tests" / "test_it.py").touch()  # setuptools puts such into an sdist by itself
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return {path.suffix: path for path in (copy / "dist").iterdir()}


@pytest.fixture(scope="module")
def built(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("wheel"), project)


def test_a_wheel_with_compiled_kernels_is_of_a_platform(project: Path, tmp_path: Path) -> None:
    kernels = tmp_path / "lambda_det" / "layers" / "native" / "native_0123456789abcdef.so"
    kernels.parent.mkdir(parents=True)
    kernels.touch()
    made = build(tmp_path, project)
    assert not made[".whl"].name.endswith("-any.whl")
    with zipfile.ZipFile(made[".whl"]) as wheel:
        assert kernels.relative_to(tmp_path).as_posix() in wheel.namelist()
    with tarfile.open(made[".gz"]) as sdist:
        assert not any(name.endswith(".so") for name in sdist.getnames())


@pytest.fixture(scope="module")
def site(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built[".whl"]) as wheel:
        wheel.extractall(folder)
    return folder


def run_python(
    site: Path, project: Path, folder: Path, *words: str, stdin: str = "", timeout: float = 600
) -> subprocess.CompletedProcess:
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in paths if path and Path(path).resolve() != project]
    return subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *others])},
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def test_wheel_holds_the_package_and_the_configs(site: Path, project: Path) -> None:
    def files(folder: Path) -> set[str]:
        paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {path.as_posix() for path in paths if "__pycache__" not in path.parts}

    found = files(site / "lambda_det")
    shipped = {name.removeprefix("shipped/") for name in found if name.startswith("shipped/")}
    assert {name for name in found if not name.startswith("shipped/")} == files(
        project / "lambda_det"
    )
    assert "py.typed" in found
    installer = {"tools/install_detectron2.py"}
    assert shipped == {f"configs/{name}" for name in files(project / "configs")} | installer
    (info,) = site.glob("*.dist-info")
    names = {"lambda_det", "lambda_det_command.py", info.name}
    assert {path.name for path in site.iterdir()} == names  # no studies
    assert (info / "licenses" / "LICENSE").read_bytes() == (project / "LICENSE").read_bytes()


def test_metadata_says_what_the_package_says(site: Path, project: Path) -> None:
    (info,) = site.glob("*.dist-info")
    metadata = HeaderParser().parsestr((info / "METADATA").read_text(encoding="utf-8"))
    assert metadata["Version"] == lambda_det.__version__
    assert info.name == f"lambda_det-{lambda_det.__version__}.dist-info"
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert metadata.get_payload().strip() == readme.strip()
    assert "lambda_det = lambda_det_command:main" in (info / "entry_points.txt").read_text()


def test_sdist_has_what_the_wheel_is_built_from(built: dict[str, Path]) -> None:
    with tarfile.open(built[".gz"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    with zipfile.ZipFile(built[".whl"]) as wheel:
        own = [n for n in wheel.namelist() if n.startswith("lambda_det")]
    own = [n for n in own if ".dist-info/" not in n]
    # What the wheel's build reads is there; a file that is not would be missing in its wheel.
    assert {name.replace("lambda_det/shipped/", "") for name in own} <= names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    assert not any(name.startswith(("tests", "studies", "results", "output")) for name in names)


CODE = """
import lambda_det, lambda_det.configs as c
cfg = lambda_det.get_config("mask_rcnn_lambda_R_101_FPN_lsj")
print(lambda_det.__file__, c.config_path("retinanet_lambda_R_101_FPN_3x"), sep="\\n")
print(cfg.MODEL.LAMBDA_RESNET.DEPTH, cfg.INPUT.LSJ.ENABLED, len(c.config_names()))
from lambda_det.analysis.published import load_published
from lambda_det.comparison import read_suite
from lambda_det.comparison.collect import PUBLISHED
print(len(read_suite("paper_coco", "out").runs), list(load_published(PUBLISHED)))
from lambda_det import records
print(records.tool_command("train_net", []), records.results_folder())
from lambda_det.doctor import TOOL
print(TOOL.format("train_net"))
"""


def test_the_wheel_alone_knows_its_configs_and_commands(
    site: Path, project: Path, tmp_path: Path
) -> None:
    said = run_python(site, project, tmp_path, "-c", CODE)
    assert said.returncode == 0, said.stdout
    module, path, numbers, suite, words, said_by_doctor = said.stdout.strip().splitlines()
    assert Path(module) == site / "lambda_det" / "__init__.py"
    assert Path(path).is_relative_to(site) and Path(path).is_file()
    assert numbers == f"101 True {len(configs.config_names())}" and suite == "6 ['mask_rcnn']"
    assert words == f"lambda_det train_net {tmp_path / 'results'}"
    assert said_by_doctor == "lambda_det train_net"


# Each command of the wheel, with what it prints (of those that have an exit status beside 0: its
# error). One process: the imports take longer than most of them.
QUICK = "mask_rcnn_lambda_R_50_FPN_shapes_cpu"
TINY = (
    "MODEL.LAMBDA_RESNET.DEPTH 26 MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_BOX_HEAD.FC_DIM 16 "
    "INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 64 SOLVER.MAX_ITER 2 "
    "SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0 DATASETS.COCO_FOLDER shapes"
)
IMAGES = "--annotations shapes/annotations/instances_val2017.json --images shapes/val2017"
FOUND = "run/inference/coco_instances_results.json"
MODEL = f"--config-file {QUICK} --weights run/model_final.pth"
COMMANDS = {
    "make_shapes_dataset": ("--output shapes --num-train 4 --num-val 2", 0, "generated shapes"),
    "check_data": ("shapes --split train2017 --image-ids 1 --write one", 0, "one: 1 images"),
    "build_native": ("--output shapes/annotations/instances_val2017.json", 2, "was not built"),
    "make_coco_subset": ("--coco shapes --image-ids 1 --output two", 0, "two: 1 images"),
    "train_net": (f"--config-file {QUICK} {TINY} OUTPUT_DIR run", 0, "Evaluation of coco_folder"),
    "lazyconfig_train_net": (
        f"--config-file {QUICK} train.max_iter=1 dataloader.train.total_batch_size=2 "
        "model.backbone.bottom_up.depth=26 train.coco_folder=shapes train.output_dir=lazy",
        0, "Evaluation (percent)",
    ),
    "evaluate": (f"{MODEL} {TINY} OUTPUT_DIR again", 0, "AR100"),
    "draw_predictions": (f"{IMAGES} --predictions {FOUND} --output a.png", 0, "a.png: 2 images"),
    "predict": (f"{MODEL} --input shapes/val2017 --output drawn {TINY}", 0, "drawn: 2 images"),
    "analyze_model": (f"--config-file {QUICK} --size 64 64 {TINY}", 0, "multiply-adds"),
    "convert_weights": ("run/model_final.pth bare.pth", 0, "tensors written"),
    "export_model": (
        "--config-file run/config.yaml --weights run/model_final.pth --format torchscript "
        "--size 64 64 --output a.ts", 0, "a.ts: largest",
    ),
    "compare": ("--suite quick_cpu --output comparison --plan", 0, "lambda_det train_net"),
    "doctor": ("--output doctor.json", None, "checks in"),
    "install_detectron2": ("--archive none.tar.gz", 1, "error: "),
    "pretrain": ("--data none --config-file lambda_R_50_shapes_cpu", 2, "--data none: no such"),
    "train_slurm": (f"--config-file {QUICK}", 2, "error: "),
}  # fmt: skip
EACH = """
import json, sys
from lambda_det_command import main
for name, words in json.load(sys.stdin):
    try:
        status = main([name, *words])
    except SystemExit as error:
        status = error.code
    print(f"\\n<{name}: {status}>", flush=True)
"""


def test_each_command_works_in_an_empty_folder(site: Path, project: Path, tmp_path: Path) -> None:
    words = json.dumps([(name, text.split()) for name, (text, _, _) in COMMANDS.items()])
    said = run_python(site, project, tmp_path, "-c", EACH, stdin=words, timeout=600)
    assert said.returncode == 0, said.stdout
    rest = said.stdout
    for name, (_, status, text) in COMMANDS.items():
        printed, mark, rest = rest.partition(f"\n<{name}: ")
        ended, _, rest = rest.partition(">\n")
        assert mark and text in printed and "Traceback" not in printed, (name, printed)
        assert status is None or ended == str(status), (name, printed)
    listed = run_python(site, project, tmp_path, "-c", "import lambda_det_command as c; c.main()")
    assert {line.split()[0] for line in listed.stdout.splitlines()[1:]} == set(COMMANDS)


def test_a_training_of_the_wheel_that_is_a_process(
    site: Path, project: Path, tmp_path: Path
) -> None:
    words = ["--config-file", QUICK, "SOLVER.BASE_LR", "fast"]
    said = run_python(site, project, tmp_path, "-m", "lambda_det", "train_net", *words)
    assert said.returncode == 2 and "SOLVER.BASE_LR" in said.stdout, said.stdout
    assert said.stdout.count("\n") == 1
