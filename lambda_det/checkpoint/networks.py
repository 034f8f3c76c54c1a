"""The networks in one file, of which one is chosen by name: ``FILE#teacher``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from lambda_det.errors import InputError


def split_network(path: str) -> tuple[str, str | None]:
    """Split ``FILE#NAME`` into the file or address and the name of a network in it.

    A file whose own name contains ``#`` is that file.
    """
    file, sign, network = path.rpartition("#")
    if not sign or not network or "/" in network or os.path.exists(path):
        return path, None
    return file, network


def several_networks(counts: Mapping[str, int]) -> InputError:
    """Return the error for a file with several networks, given their numbers of tensors."""
    listing = ", ".join(f"{name!r} ({count} tensors)" for name, count in counts.items())
    return InputError(
        f"contains several networks: {listing}; choose one with FILE#NAME, or convert_weights "
        "--network NAME"
    )


def no_such_network(network: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that no network in the file has."""
    known = sorted(known)
    if len(known) < 2:
        content = "one network, which needs no name" if known else "no network that is known"
        return InputError(
            f"contains no network {network!r}; it contains {content}: leave out '#{network}' (or "
            f"--network)"
        )
    listing = ", ".join(map(repr, known[:8])) + (", ..." if len(known) > 8 else "")
    return InputError(f"contains no network {network!r}; it contains {listing}")
