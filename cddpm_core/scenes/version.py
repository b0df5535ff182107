"""The version of the rendered images, which names the cached data and the cached stand-in."""

from __future__ import annotations

import functools
import hashlib
import json

from cddpm_core.config.code_version import code_hash
from cddpm_core.data.labels import COLOURS, OBJECTS

__all__ = ["renderer_version"]

# All that decides the scenes and the pixels of a seed.
_MODULES = ("scenes.raytrace", "scenes.compose", "scenes.render", "scenes.scene", "scenes.dataset",
            "config.seeds")


@functools.cache
def renderer_version() -> str:
    """Return 12 hex digits that change with the renderer's code, its colours or the objects.

    Comments, docstrings and the layout of the code do not matter. No renderer is imported.
    """
    code = code_hash(*(f"cddpm_core.{name}" for name in _MODULES))
    content = json.dumps([code, COLOURS, OBJECTS])
    return hashlib.sha256(content.encode()).hexdigest()[:12]
