"""Suite files: what they plan, and the line that a wrong one gets."""

from __future__ import annotations

import copy
import sys

import pytest

from lambda_det.comparison import read_suite
from lambda_det.errors import InputError


def test_plan(content, write_suite, tmp_path):
    content["prepare"] = ["{python} make.py {output}/data"]
    suite = read_suite(write_suite(content), str(tmp_path / "out"))
    assert suite.labels == {"plain": "R-50", "lambda": "λ-50"}
    assert [(run.seed, run.model) for run in suite.runs] == [
        (seed, model) for seed in (1, 2, 3) for model in ("plain", "lambda")
    ]
    assert suite.prepare == (f"{sys.executable} make.py {tmp_path}/out/data",)
    run = suite.runs[0]
    assert run.folder == str(tmp_path / "out" / "runs" / "plain" / "seed1")
    words = run.arguments
    assert words[words.index("DATASETS.COCO_FOLDER") + 1] == f"{tmp_path}/out/data"
    assert words[words.index("SEED") + 1] == "1"
    assert not {"--resume", "--num-gpus"} & set(words)
    assert suite.configs["", "plain"].MODEL.LAMBDA_RESNET.VARIANT == "resnet"
    assert suite.configs["", "lambda"].SOLVER.MAX_ITER == 20
    assert suite.baselines == {"plain": "plain", "lambda": "plain"}


def test_every_model_runs_on_every_set(content, write_suite, tmp_path):
    content["prepare"] = ["first"]
    content["sets"] = {
        "hard": {"label": "relational", "prepare": ["second {output}"]},
        "easy": {"overrides": {"DATASETS.COCO_FOLDER": "{output}/easy", "SOLVER.MAX_ITER": 9}},
    }
    out = tmp_path / "out"
    suite = read_suite(write_suite(content), str(out))
    assert suite.sets == {"hard": "relational", "easy": "easy"}
    assert suite.prepare == ("first", f"second {out}")
    assert [(run.seed, run.set, run.model) for run in suite.runs[:5]] == [
        (1, "hard", "plain"), (1, "hard", "lambda"), (1, "easy", "plain"), (1, "easy", "lambda"),
        (2, "hard", "plain"),
    ]  # fmt: skip
    assert suite.runs[3].folder == str(out / "runs" / "easy" / "lambda" / "seed1")
    folders = [suite.configs[name, "lambda"].DATASETS.COCO_FOLDER for name in suite.sets]
    assert folders == [f"{out}/data", f"{out}/easy"]
    assert suite.configs["easy", "plain"].SOLVER.MAX_ITER == 9


def test_what_a_suite_may_say_besides(content, write_suite):
    content |= {"resume": True, "gpus_per_run": 4, "throughput": "../x.json"}
    content["models"]["lambda"]["baseline"] = "lambda"
    path = write_suite(content)
    suite = read_suite(path, "out", ["SOLVER.MAX_ITER", "7"])
    assert suite.baselines["lambda"] == "lambda" and suite.throughput.endswith("x.json")
    words = suite.runs[0].arguments
    assert "--resume" in words and words[words.index("--num-gpus") + 1] == "4"
    assert words[words.index("--dist-url") + 1] == "auto"
    assert {cfg.SOLVER.MAX_ITER for cfg in suite.configs.values()} == {7}
    assert "--num-gpus" not in read_suite(path, "out", gpus_per_run=1).runs[0].arguments


def test_paths_in_commands_are_quoted(content, write_suite, tmp_path):
    content["prepare"] = ["make {output}/data"]
    suite = read_suite(write_suite(content), str(tmp_path / "my out"))
    assert suite.prepare == (f"make '{tmp_path}/my out'/data",)
    words = suite.runs[0].arguments
    assert words[words.index("DATASETS.COCO_FOLDER") + 1] == f"{tmp_path}/my out/data"


def test_a_key_without_a_value_is_as_if_it_were_not_there(read, content):
    content |= {"name": None, "prepare": None, "sets": None, "keep": None}
    content["models"]["lambda"]["overrides"] = None
    suite = read()
    assert suite.name == "suite" and suite.prepare == () and suite.sets == {"": ""}


def test_dollars_are_the_shell_s(read, content):
    """And no interpolation of OmegaConf's."""
    command = "for x in a.b; do echo $HOME ${x%.*} ${x}; done"
    content |= {"prepare": [command], "pretrain": command + " > {weights}"}
    suite = read()
    assert suite.prepare == (command,) and suite.runs[0].pretrain.startswith(command)


@pytest.mark.parametrize("key", ["SEED", "OUTPUT_DIR"])
def test_what_the_suite_sets_cannot_be_given(content, write_suite, key):
    with pytest.raises(InputError, match=f"{key} is set by the suite itself"):
        read_suite(write_suite(content), "out", ["SOLVER.MAX_ITER", "7", key, "5"])


def test_config_is_relative_to_the_suite(read, content, tmp_path):
    (tmp_path / "a.yaml").write_text(
        "VERSION: 2\nMODEL: {META_ARCHITECTURE: RetinaNet}\nDATASETS: {TEST: ['val']}"
    )
    content["models"]["lambda"] = {"config": "a.yaml"}
    content["models"]["plain"] = {"config": "./a.yaml"}
    suite = read()
    assert suite.configs["", "lambda"].MODEL.META_ARCHITECTURE == "RetinaNet"


@pytest.mark.parametrize(
    ("path", "value", "texts"),
    [
        (["bugdet"], 3, ["'bugdet'", "overrides"]),
        (["models"], {}, ["models is empty"]),
        (["baseline"], "se", ["'se'", "plain, lambda"]),
        (["seeds"], [], ["seeds []"]),
        (["seeds"], [1, 1], ["seeds [1, 1]", "different"]),
        (["seeds"], [-1], ["seeds [-1]"]),
        (["prepare"], "make", ["prepare 'make'", "list"]),
        (["overrides"], [1], ["overrides [1]", "mapping"]),
        (["overrides", "SEED"], 3, ["overrides.SEED", "itself"]),
        (["overrides", "SOLVER.MAXITER"], 3, ["models.plain", "SOLVER.MAXITER"]),
        (["models", "lambda"], {}, ["models.lambda.config is missing", "path or the name"]),
        (["models", "lambda", "config"], "gone.yaml", ["models.lambda", "gone.yaml"]),
        (["models", "../x"], {"config": "x"}, ["'../x'", "folder"]),
        (["models", "lambda", "overrides"], {"SOLVER.MAX_ITER": 21},
         ["SOLVER.MAX_ITER is 20 for model plain and 21 for lambda", "equal budgets"]),
        (["models", "lambda", "overrides"], {"INPUT.MIN_SIZE_TEST": 99}, ["INPUT.MIN_SIZE_TEST"]),
        (["models", "lambda", "overrides"], {"MODEL.MASK_ON": False},
         ["MODEL.MASK_ON is True for model plain and False for lambda", "tasks"]),
        (["models", "lambda", "baseline"], "se", ["'se' of model lambda", "plain, lambda"]),
        (["models", "lambda", "label"], "R-50", ["label 'R-50' occurs 2 times"]),
        (["models", "lambda"], None, ["models.lambda is None", "mapping"]),
        (["name"], ["a"], ["name ['a']", "a text is needed"]),
        (["seeds"], [1.5], ["seeds [1.5]"]),
        (["seeds"], [True], ["seeds [True]"]),
        (["controls"], ["frozen"], ["controls ['frozen']", "a list of zeroed"]),
        (["pretrain"], "true", ["pretrain 'true'", "a command that writes {weights} is needed"]),
        (["resume"], "perhaps", ["resume 'perhaps'", "True or False"]),
        (["gpus_per_run"], 0, ["gpus_per_run 0"]),
        (["sets"], {"a/b": {}}, ["sets: the name 'a/b'"]),
        (["sets"], {"a": {"seeds": [1]}}, ["sets.a", "'seeds'"]),
        (["overrides", "DATASETS.TEST"], "('a', 'b')", ["DATASETS.TEST ('a', 'b')", "one dataset"]),
    ],
)  # fmt: skip
def test_wrong_suite(content, write_suite, path, value, texts):
    node = content = copy.deepcopy(content)
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file = write_suite(content)
    with pytest.raises(InputError) as error:
        read_suite(file, "out")
    message = str(error.value)
    assert f"suite {file}" in message and "\n" not in message
    for text in texts:
        assert text in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "not YAML"),
        ("- a", "a mapping is needed"),
        ("name: !!python/object/apply:os.system [ls]", "not YAML"),
        ("models:\n  a: {config: x}\n  a: {config: y}", "not YAML: .*duplicate key a"),
    ],
)
def test_wrong_file(write_suite, text, reason):
    with pytest.raises(InputError, match=reason):
        read_suite(write_suite(text), "out")
    with pytest.raises(InputError, match="cannot be read"):
        read_suite("gone.yaml", "out")


def test_a_file_that_is_not_utf_8_is_one_line(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.yaml is not YAML: 'utf-8' codec"):
        read_suite(str(tmp_path / "latin.yaml"), "out")
