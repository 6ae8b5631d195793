"""What pyproject.toml cannot say: with SEQGEN_WHEEL_KERNELS=1 a wheel brings compiled kernels, for one platform."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py


class BuildWithKernels(build_py):
    """Compiles the kernels beside their sources in the build."""

    def run(self) -> None:
        super().run()
        sys.path.insert(0, str(Path(__file__).parent))
        from seqgen.native.build import SHIPPED, compile_for_wheel

        compile_for_wheel(Path(self.build_lib) / "seqgen/native" / SHIPPED.name)


class PlatformWheel(bdist_wheel):
    """For any Python 3 of this platform: the kernels are loaded by ctypes."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    """One whose wheel is not for every platform."""

    def has_ext_modules(self) -> bool:
        return True


if os.environ.get("SEQGEN_WHEEL_KERNELS") == "1":
    setup(
        cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel}, distclass=PlatformDistribution
    )
else:
    setup()
