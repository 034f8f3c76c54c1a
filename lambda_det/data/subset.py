"""A few images of a COCO-layout folder as a folder of their own, for debugging and overfitting."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from lambda_det.data.coco_json import clean_coco, parse_coco_json
from lambda_det.data.file_names import image_paths
from lambda_det.data.layouts import locate_split
from lambda_det.errors import InputError
from lambda_det.io import new_folder


def write_subset(root: str, split: str, image_ids: Sequence[int], output: str) -> int:
    """Write ``output`` in COCO layout: the chosen images of one split, under the same split name.

    The images are symbolic links to the originals; all categories are kept, so that class ids
    stay those of the whole set.

    Returns:
        The number of objects (crowds not counted) in the chosen images.

    Raises:
        InputError: the source is not a COCO folder, an id is not in it, or ``output`` exists.
    """
    json_file, image_root = locate_split(root, split)
    content = parse_coco_json(json_file)
    summary, listed, entries = clean_coco(content, json_file)
    names = [image["file_name"] for image in listed]
    paths = dict(zip(names, image_paths(names, image_root, json_file), strict=True))
    summary.findings.log()
    chosen = set(image_ids)
    if not chosen:
        raise InputError("--image-ids: empty, expected at least one id")
    if missing := sorted(chosen - {image["id"] for image in listed}):
        raise InputError(f"--image-ids: {missing} are not images of {json_file}")
    if os.path.lexists(output):
        raise InputError(f"--output {output}: exists already, name a folder that does not")

    images = [image for image in listed if image["id"] in chosen]
    for name in (image["file_name"] for image in images):
        if os.path.isabs(name) or ".." in name.split("/"):  # its link would be made elsewhere
            raise InputError(
                f"annotation file {json_file}: file_name {name!r} leaves the folder of the images; "
                "expected a name inside it"
            )
    annotations = [a for a in entries if a["image_id"] in chosen]
    with new_folder(output) as folder:
        os.makedirs(os.path.join(folder, "annotations"))
        os.makedirs(os.path.join(folder, split))
        for image in images:
            name = image["file_name"]
            link = os.path.join(folder, split, name)
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(paths[name], link)
        target = os.path.join(folder, "annotations", f"instances_{split}.json")
        with open(target, "w", encoding="utf-8") as file:
            json.dump({**content, "images": images, "annotations": annotations}, file)
    return sum(not a["iscrowd"] for a in annotations)
