#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Modules out of a package that is not there as a whole (bench/peers/packages.py): what is wanted is
real, what it imports besides stands in, and others' imports are left alone."""

import importlib
import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench/peers"))

import packages  # noqa: E402

KERNELS = '''
from typing import Optional

import madeup_ext
from madeup.platforms import current, is_cuda
from madeup.utils.deep import register, Config
from .sizes import SIZE

from .. import envs


@register(name="twice")
def registered(x: Optional[Config] = None, y: Config | None = None): ...


if is_cuda():
    HERE = "cuda"
else:
    HERE = "elsewhere"


def twice(x):
    if envs.DEBUG or madeup_ext.loud():
        raise RuntimeError("a stand-in is not false")
    return 2 * x + SIZE + current
'''


class Packages(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        home = pathlib.Path(self.folder) / "madeup/layers"
        home.mkdir(parents=True)
        # All of the package can't be imported: only files that are asked for may run.
        (home.parent / "__init__.py").write_text("raise ImportError('all of it')\n")
        (home / "__init__.py").write_text("raise ImportError('all of layers')\n")
        (home / "kernels.py").write_text(KERNELS)
        (home / "sizes.py").write_text("SIZE = 1\n")
        (home.parents[1] / "madeup-1.25.dist-info").mkdir()
        packages.load.cache_clear()

    def load(self, values=(("madeup.platforms", "current", 40),), others=("madeup_ext",)):
        return packages.load("madeup", self.folder, ("layers.kernels", "layers.sizes"), values, others)

    def test_wanted(self):
        kernels, sizes = self.load()
        self.assertEqual((kernels.twice(5), sizes.SIZE, kernels.HERE), (51, 1, "elsewhere"))
        self.assertFalse(kernels.registered)
        self.assertIs(self.load()[0], kernels)  # once: what it has compiled is kept

    def test_values(self):
        values = (("madeup.platforms", "current", 0), ("madeup.platforms", "is_cuda", lambda: True))
        self.assertEqual(self.load(values)[0].HERE, "cuda")

    def test_others_imports(self):
        """Nothing of it is there for who imports the package itself; what was there still is."""
        sys.modules["madeup_ext"] = packages
        self.addCleanup(sys.modules.pop, "madeup_ext")
        finders = list(sys.meta_path)
        self.load()
        self.assertEqual(sys.meta_path, finders)
        self.assertIs(sys.modules["madeup_ext"], packages)
        for name in ("madeup", "madeup.layers.kernels"):
            with self.assertRaises(ImportError):
                importlib.import_module(name)

    def test_left_alone_after_a_failure(self):
        with self.assertRaises(ImportError):  # a real package that is not there stays away
            self.load(others=())
        self.assertNotIn("madeup", sys.modules)
        self.assertEqual(self.load()[0].twice(0), 41)

    def test_missing(self):
        with self.assertRaisesRegex(ImportError, "there is no nosuch in Python's packages nor in " + self.folder):
            packages.load("nosuch", self.folder, ("kernels",))
        with self.assertRaisesRegex(ImportError, "; --packages names a folder that has it"):
            packages.load("nosuch", None, ("kernels",))
        with self.assertRaisesRegex(ImportError, "madeup.layers.gone is not in .*another version"):
            packages.load("madeup", self.folder, ("layers.gone",))

    def test_version(self):
        self.assertEqual(packages.version("madeup", self.folder), "1.25")
        self.assertEqual(packages.version("nosuch", self.folder), "?")


if __name__ == "__main__":
    unittest.main()
