"""Config files, keys on the command line, and suites."""

from __future__ import annotations

from pathlib import Path

from studies.corpus.case import LEFT_BY_A_START, Command, Group
from studies.corpus.files import train, write_folder

case = Group("configs")

# What a careless reader of YAML would run; the file that it makes would show.
_CODE = '!!python/object/apply:os.mkdir ["{folder}/ran"]'


def _file(title: str, text: str, says: str, **more: str) -> None:
    """A case of a config file, beside others of the names in ``more``."""

    @case(title, says)
    def make(folder: Path) -> Command:
        for name, content in {"c": text, **more}.items():
            (folder / f"{name}.yaml").write_text(content.replace("{folder}", str(folder)))
        return Command("train_net", ["--config-file", str(folder / "c.yaml")])


def _key(title: str, says: str, *overrides: object, whole: bool = False, left=frozenset()) -> None:
    """A case of KEY VALUE pairs on the command line."""

    @case(title, says, left=left)
    def make(folder: Path) -> Command:
        write_folder(folder)
        return train(folder, *overrides, whole=whole)


_file("unknown key", "MODEL: {LAMBDA_RESNET: {DEEPTH: 50}}", "MODEL.LAMBDA_RESNET.DEEPTH")
_file("text for a number", "SOLVER: {MAX_ITER: many}", "SOLVER.MAX_ITER")
_file("a number for a node", "MODEL: 5", "MODEL=5: expected keys and values")
_file("a list for a number", "SOLVER: {BASE_LR: [1]}", "SOLVER.BASE_LR")
_file("broken YAML", "MODEL: {DEPTH: 50", "is no YAML")
_file("bytes that are no text", "\0\1\2", "is no YAML")
_file("empty", "", "its top level is a NoneType; keys and values are needed")
_file("a list", "- MODEL", "its top level is a list")
_file("a key that is a number", "5: 6", "key 5 is no text")
_file("code in a tag", f"OUTPUT_DIR: {_CODE}", "refused, it has could not determine a constructor")
_file("code in a file it is based on", "_BASE_: base.yaml", "_BASE_ DIR/base.yaml (of DIR/c.yaml)",
      base=f"OUTPUT_DIR: {_CODE}")  # fmt: skip
_file("based on itself", "_BASE_: c.yaml", "_BASE_ DIR/c.yaml (of DIR/c.yaml): is based on itself")
_file("based on each other", "_BASE_: d.yaml", "is based on itself", d="_BASE_: c.yaml")
_file("based on a file that is not there", "_BASE_: base.yaml", "cannot be read (No such file")
_file("based on a number", "_BASE_: 5", "_BASE_ 5 is not the name of a file")


@case("not there", "--config-file DIR/c.yaml: no such file")
def absent(folder: Path) -> Command:
    return Command("train_net", ["--config-file", str(folder / "c.yaml")])


@case("a folder", "--config-file DIR: cannot be read (Is a directory)")
def is_folder(folder: Path) -> Command:
    return Command("train_net", ["--config-file", str(folder)])


_key("unknown key on the command line", "Non-existent key: SOLVER.MAXITER", "SOLVER.MAXITER", 5)
_key("a key without a value", "has an odd number of words", "SOLVER.MAX_ITER")
_key("text for a number on the command line", "SOLVER.MAX_ITER", "SOLVER.MAX_ITER", "many")
_key("batch of 0", "SOLVER.IMS_PER_BATCH=0: expected a whole number", "SOLVER.IMS_PER_BATCH", 0)
_key("negative iterations", "SOLVER.MAX_ITER=-5: expected", "SOLVER.MAX_ITER", -5)
_key("a rate of infinity", "SOLVER.BASE_LR=inf: expected", "SOLVER.BASE_LR", "1e999")
_key("unknown schedule", "LR_SCHEDULER_NAME='Cosine'", "SOLVER.LR_SCHEDULER_NAME", "Cosine")
_key("unknown sampler", "SAMPLER_TRAIN='Random': expected", "DATALOADER.SAMPLER_TRAIN", "Random")
_key("unknown device", "MODEL.DEVICE='gpu': PyTorch has no", "MODEL.DEVICE", "gpu")
_key("unknown architecture", "META_ARCHITECTURE='Yolo'", "MODEL.META_ARCHITECTURE", "Yolo")
_key("unknown heads", "MODEL.ROI_HEADS.NAME='Head': expected", "MODEL.ROI_HEADS.NAME", "Head")
_key("unknown masks", "INPUT.MASK_FORMAT='rle': expected", "INPUT.MASK_FORMAT", "rle")
_key("unknown flip", "INPUT.RANDOM_FLIP 'both'", "INPUT.RANDOM_FLIP", "both",
     left=LEFT_BY_A_START)  # fmt: skip
_key("two means for three colours", "MODEL.PIXEL_MEAN=[1.0, 2.0]: expected a finite",
     "MODEL.PIXEL_MEAN", "[1.0, 2.0]")  # fmt: skip
_key("proposals, which are pickles", "MODEL.LOAD_PROPOSALS=True: expected False",
     "MODEL.LOAD_PROPOSALS", "True")  # fmt: skip
_key("a depth that nobody has", "MODEL.LAMBDA_RESNET.DEPTH=99: expected one of 26, 50, 101",
     "MODEL.LAMBDA_RESNET.DEPTH", 99, whole=True, left=LEFT_BY_A_START)  # fmt: skip
_key("unknown dataset", "unknown dataset 'coco_2071'", "DATASETS.TRAIN", "('coco_2071',)")


def _suite(title: str, text: str, says: str) -> None:
    @case(f"suite: {title}", says)
    def make(folder: Path) -> Command:
        (folder / "s.yaml").write_text(text.replace("{folder}", str(folder)))
        return Command(
            "compare", ["--suite", str(folder / "s.yaml"), "--output", str(folder / "out")]
        )


_suite("unknown key", "name: s\nmodel: {}", "unknown key 'model'")
_suite("code in a tag", f"name: {_CODE}", "could not determine a constructor")
