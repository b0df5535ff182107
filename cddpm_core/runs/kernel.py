"""The kernel of a stage: this interpreter, whatever the machine's settings are.

``python -m cddpm_core.runs.kernel`` is IPython's kernel without configuration or startup files.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from functools import cached_property
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from cddpm_core.config.environment import own_environment, settle

__all__ = ["OwnKernel"]


class OwnKernel(AsyncKernelManager):
    """Starts `Kernel` in this interpreter, whatever kernels Jupyter knows."""

    @cached_property
    def kernel_spec(self) -> KernelSpec:
        """How the kernel is started. It keeps its files in a temporary folder, not at home."""
        return KernelSpec(argv=[sys.executable, "-m", __name__, "-f", "{connection_file}"],
                          display_name="Python 3", language="python",
                          env=own_environment() | {"IPYTHONDIR": self.folder})

    @cached_property
    def folder(self) -> str:
        """A temporary folder, which the kernel's end removes."""
        return tempfile.mkdtemp()

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart)
        # Not by a finalizer, in which Python would ignore that the user presses Ctrl-C.
        if not restart:
            shutil.rmtree(self.folder, ignore_errors=True)

    cleanup_resources = _async_cleanup_resources


class Kernel(IPKernelApp):
    """IPython's kernel, which reads nobody's settings."""

    def load_config_file(self, *arguments: Any, **options: Any) -> None:
        """Read no configuration."""

    def init_code(self) -> None:
        """Run no startup files."""


if __name__ == "__main__":
    settle(backend="")
    Kernel.launch_instance(log_level="CRITICAL", ignore_cwd=True)
