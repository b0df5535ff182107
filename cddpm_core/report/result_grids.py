"""The grids in ``outputs/README.md``: what presets sampled, beside renders of the same labels."""

from __future__ import annotations

import shutil
from pathlib import Path

from cddpm_core.config.files import atomic, write_png
from cddpm_core.data.labels import condition_file, read_conditions
from cddpm_core.report.markdown import code, table
from cddpm_core.runs.run import Run

__all__ = ["grids_text"]

PRESETS = ("quick", "best_cpu")
RENDERED, FILE = "rendered", "test"


def grids_text(outputs: Path) -> str:
    """Write the pictures ``<name>_test.png`` and return them side by side, as Markdown.

    That of a preset is the grid of its run, or the picture that is there if the run is not.
    Without any picture the text is empty.
    """
    shown = {}
    for name in PRESETS:
        grid, picture = Run(name, outputs) / f"figures/{FILE}_grid.png", _picture(outputs, name)
        if grid.exists():
            with atomic(picture) as temporary:
                shutil.copyfile(grid, temporary)
        if picture.exists():
            shown[name] = picture
    if not shown:
        return ""
    # torch and numba load slowly.
    from cddpm_core.data.images import to_float
    from cddpm_core.evaluation.images import grid_image
    from cddpm_core.scenes.conditions import render_conditions

    renders = render_conditions(read_conditions(condition_file(FILE)))
    write_png(_picture(outputs, RENDERED), grid_image(to_float(renders), scale=3))
    shown = {RENDERED: _picture(outputs, RENDERED), **shown}
    return (f"## Images\n\nThe 32 conditions of `{FILE}.json`, eight per row in the order of the "
            "file: new scenes rendered for them, none of which is a training scene, then the "
            "samples of the presets.\n\n"
            + table([name if name == RENDERED else code(name) for name in shown],
                    [[f"![The conditions of {FILE}.json, {name}]({picture.name})"
                      for name, picture in shown.items()]]))


def _picture(outputs: Path, name: str) -> Path:
    return outputs / f"{name}_{FILE}.png"
