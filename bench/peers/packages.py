# SPDX-License-Identifier: MIT
"""Some modules out of a package, without the package: kernels in Triton, whose packages bring servers,
compiled extensions and much else that a comparison neither needs nor can carry.

A package lies in a folder: installed, or a wheel or some of its files unpacked by the user. The wanted
modules are imported from there. Whatever else of the package, or of others, they import is a stand-in:
each of its names is Nothing, which is false, can be called, and is Nothing again, unless the caller
gives a value. Nothing that stands in may take part in an answer, which the comparison checks.
"""

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pathlib
import sys
import types


class Nothing:
    """What is not there: in annotations, decorators, conditions."""

    def __call__(self, *arguments, **named):
        return self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __or__(self, other):
        return self

    __ror__ = __or__

    def __bool__(self):
        return False


NOTHING = Nothing()


class StandIn(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return NOTHING


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, tops, files, values):
        self.tops, self.files, self.values = tops, files, values

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.tops:
            return None
        if name in self.files:
            return importlib.util.spec_from_file_location(name, self.files[name])
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = StandIn(spec.name)
        for of, name, value in self.values:
            if of == spec.name:
                setattr(module, name, value)
        return module

    def exec_module(self, module):
        pass


def find(package, folder):
    """Where it lies: below the folder, or where Python has it. It is not imported."""
    if folder and (pathlib.Path(folder) / package).is_dir():
        return pathlib.Path(folder) / package
    spec = importlib.util.find_spec(package)
    for place in (spec and spec.submodule_search_locations) or ():
        return pathlib.Path(place)
    raise ImportError(f"there is no {package} in Python's packages"
                      + (f" nor in {folder}" if folder else "; --packages names a folder that has it"))


def take_out(tops):
    """Of the modules that are imported: theirs."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}


@functools.lru_cache(maxsize=None)
def load(package, folder, wanted, values=(), others=()):
    """The wanted modules, names below the package, once. `values`: ((module, name, value), ...) of
    stand-ins. `others`: packages of which nothing is real. Who imports the package afterwards gets the
    real one, or none."""
    root = find(package, folder)
    files = {f"{package}.{name}": root.joinpath(*name.split(".")).with_suffix(".py") for name in wanted}
    for name, path in files.items():
        if not path.is_file():
            raise ImportError(f"{name} is not in {root}: another version than this was written for")
    finder = Finder({package, *others}, files, values)
    before = take_out(finder.tops)
    sys.meta_path.insert(0, finder)
    try:
        return [importlib.import_module(name) for name in files]
    finally:
        sys.meta_path.remove(finder)
        take_out(finder.tops)
        sys.modules.update(before)


def version(package, folder):
    """As the folder's name of its metadata has it, else Python's; "?" where neither is there."""
    for path in sorted(pathlib.Path(folder or ".").glob(f"{package.replace('-', '_')}-*.dist-info")):
        return path.name.removesuffix(".dist-info").split("-")[1]
    try:
        from importlib import metadata
        return metadata.version(package)
    except Exception:
        return "?"
