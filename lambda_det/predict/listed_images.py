"""Pictures that a COCO json lists, found by the paths of files."""

from __future__ import annotations

import os

from lambda_det.errors import InputError


class ListedImages:
    """A COCO json's images by the file that a path means.

    Args:
        listed: its ``images``, checked.
        source: the json, for messages.
    """

    def __init__(self, listed: list[dict], source: str) -> None:
        self._source = source
        self._number = len(listed)
        self._by_name: dict[str, list[dict]] = {}
        for image in listed:
            name = os.path.basename(image["file_name"])
            self._by_name.setdefault(name, []).append(image)

    def of(self, path: str) -> tuple[int, tuple[int, int]]:
        """The id, width and height of the image whose ``file_name`` the path ends in.

        Raises:
            InputError: there is none.
        """
        absolute = os.path.abspath(path)
        fitting = [
            image
            for image in self._by_name.get(os.path.basename(path), ())
            if absolute.endswith(os.path.join(os.sep, os.path.normpath(image["file_name"])))
        ]
        if not fitting:
            raise InputError(
                f"--input {path}: is not among the {self._number} images of --annotations "
                f"{self._source}"
            )
        image = max(fitting, key=lambda image: len(image["file_name"]))
        return image["id"], (image["width"], image["height"])
