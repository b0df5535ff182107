import asyncio
from pathlib import Path

from cddpm_core.runs.kernel import OwnKernel


def test_a_kernel_leaves_no_files():
    """Removed when it ends, not by a finalizer, which would ignore that Ctrl-C is pressed."""
    async def run() -> list[bool]:
        kernel = OwnKernel()
        await kernel.start_kernel()
        folder = Path(kernel.folder)
        there = [folder.is_dir()]
        await kernel.shutdown_kernel(now=True)
        return [*there, folder.is_dir()]

    assert asyncio.run(run()) == [True, False]
