"""Search of the images that a COCO json lists by the paths of image files."""

from __future__ import annotations

import os

from lambda_det.errors import InputError


class ListedImages:
    """Finds the entry of a COCO json that belongs to an image file.

    Args:
        listed: the list ``images`` of the json, after its checks.
        source: path of the json, for messages.
    """

    def __init__(self, listed: list[dict], source: str) -> None:
        self._source = source
        self._number = len(listed)
        self._by_name: dict[str, list[dict]] = {}
        for image in listed:
            name = os.path.basename(image["file_name"])
            self._by_name.setdefault(name, []).append(image)

    def of(self, path: str) -> tuple[int, tuple[int, int]]:
        """Find the image whose ``file_name`` is the end of a path; the longest one is taken.

        Args:
            path: path of an image file.

        Returns:
            The id of the image in the json, and its (width, height) in pixels.

        Raises:
            InputError: the json lists no such image.
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
