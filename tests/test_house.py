"""The rooms of the package and the arrows between them, read from its import statements.

Every check is a function of a folder, which returns what is wrong there. Each is also shown a small
package with one fault.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import astro_ddprism

ROOT = Path(astro_ddprism.__file__).parent

# Rooms that a room may import; and those that they may, and so on.
ARROWS = {
    "__main__": ("cli",),
    "cli": ("separator", "simulate", "evaluate"),
    "separator": ("posterior", "diffusion", "models"),
    "evaluate": ("posterior",),
    "posterior": ("views",),
    "simulate": ("views",),
    "views": ("mixing", "survey"),
    "mixing": ("frame",),
    "survey": ("frame",),
    "frame": ("psf",),
    "psf": ("io",),
    "io": (),
    "diffusion": (),
    "models": (),
}
# What stands in the hall, and what it may import itself.
HALL = {"errors": (), "progress": (), "registry": ("errors",), "steps": (), "units": ("errors",)}
# All may use the hall, but for the ground floor.
OF_THE_HALL = {"io": ("errors",), **HALL}
# Without PyTorch.
LIGHT = ("survey", "psf", "frame", "io", "cli.arguments", *HALL)
LATE = {"torch", "matplotlib"}
# Import by name what is asked for: the public names, the module of a command, the class of what an
# ASDF file holds.
BY_NAME = {"", "cli", "views.files"}
MOST_LINES = 450


@dataclass(frozen=True)
class Import:
    """One name that a module imports; modules of the package are named from its root."""

    line: int
    module: str | None  # of the package, "" its root; None of another
    outside: str  # the module of another package
    name: str
    hidden: bool


@cache
def modules(root):
    """The modules of a package: their files and trees by their names, "" for the root."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path, ast.parse(path.read_text(encoding="utf-8"))
    return found


@cache
def imports(root):
    """What each module imports."""
    known = modules(root)
    result = {}
    for module, (path, tree) in known.items():
        hidden = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for node in ast.walk(function)
        }
        result[module] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [(alias.name, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    own = [root.name, *module.split(".")] if module else [root.name]
                    up = node.level - (path.name == "__init__.py")
                    base = ".".join([*own[: len(own) - up], *base.split(".")]).rstrip(".")
                targets = [(f"{base}.{alias.name}", alias.name) for alias in node.names]
            else:
                continue
            for target, name in targets:
                first, _, rest = target.partition(".")
                if first == root.name:
                    inside, outside = rest if rest in known else rest.rpartition(".")[0], ""
                else:
                    inside, outside = None, target
                result[module].append(
                    Import(node.lineno, inside, outside, name, id(node) in hidden)
                )
    return result


def arrows(root):
    """Imports against the arrows."""

    def below(room):
        return {other for next_room in ARROWS[room] for other in (next_room, *below(next_room))}

    faults = []
    for module, found in imports(root).items():
        room = module.split(".")[0]
        if room and room not in {*ARROWS, *HALL}:
            faults.append(f"{module}: in none of the rooms")
            continue
        for each in found:
            if each.module is None or room == "":
                continue
            other = each.module.split(".")[0]
            if other == "":
                if each.name != "__version__" and module not in BY_NAME:
                    faults.append(f"{module}:{each.line}: {each.name} from the package's root")
            elif other != room:
                rooms = below(room) if room in ARROWS else set()
                if other not in {*rooms, *OF_THE_HALL.get(room, HALL)}:
                    faults.append(f"{module}:{each.line}: {room} -> {other}")
    return faults


def circles(root):
    """Circles of modules, of rooms, and of rooms within a room."""
    # A module also waits for the packages that what it imports is in.
    graph = {}
    for module, found in imports(root).items():
        graph[module] = set()
        for each in found:
            parts = (each.module or "").split(".")
            outer = [".".join(parts[: i + 1]) for i in range(len(parts))]
            graph[module] |= {
                package
                for package in outer
                if package and package != module and not f"{module}.".startswith(f"{package}.")
            }
            if each.module and f"{module}.".startswith(f"{each.module}."):
                graph[module].add(each.module)  # what its own package has imported before it
    packages = {name for name, (path, _) in modules(root).items() if path.name == "__init__.py"}
    faults = []
    for depth in (None, 1, 2):
        rooms = {}
        for module, others in graph.items():
            ends = [_room(name, depth, packages) for name in (module, *others)]
            rooms.setdefault(ends[0], set()).update(set(ends[1:]) - {ends[0]})
        try:
            TopologicalSorter(rooms).prepare()
        except CycleError as error:
            faults.append(" -> ".join(error.args[1]))
    return faults


def _room(module, depth, packages):
    """The package of a module, so deep at most, or the module where it is in none so deep."""
    if depth is None or (module in packages and module.count(".") + 1 < depth):
        return module
    return ".".join(module.split(".")[:depth])


def hidden_imports(root):
    """Imports inside functions, and by name."""
    faults = [
        f"{module}:{each.line}: {each.name} inside a function"
        for module, found in imports(root).items()
        for each in found
        if each.hidden and each.outside.split(".")[0] not in LATE
    ]
    for module, (_, tree) in modules(root).items():
        for node in ast.walk(tree):
            name = getattr(node, "attr", getattr(node, "id", None))
            if name in {"import_module", "__import__"} and module not in BY_NAME:
                faults.append(f"{module}:{node.lineno}: {name}")
    return faults


def long_modules(root):
    """Modules of too many lines."""
    lengths = {
        module: len(path.read_text(encoding="utf-8").splitlines())
        for module, (path, _) in modules(root).items()
    }
    return [f"{module}: {n} lines" for module, n in lengths.items() if n > MOST_LINES]


def strangers_in_the_hall(root):
    """What the top level holds beside the hall and folders."""
    whole = {"__init__.py", "__init__.pyi", "__main__.py", "py.typed"}
    expected = whole | {f"{name}.py" for name in HALL}
    return [path.name for path in root.iterdir() if path.is_file() and path.name not in expected]


def private_names(root):
    """Private names of other modules."""

    def is_private(name):
        return name.startswith("_") and not name.endswith("__")

    faults = []
    for module, found in imports(root).items():
        for each in found:
            names = [*each.outside.split("."), *(each.module or "").split("."), each.name]
            if any(map(is_private, names)):
                faults.append(f"{module}:{each.line}: {each.name}")
        bound = {each.name.split(".")[0] for each in found}
        faults += [
            f"{module}:{node.lineno}: {node.value.id}.{node.attr}"
            for node in ast.walk(modules(root)[module][1])
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in bound
            # torch has no other names for what works on many tensors at once
            and is_private(node.attr)
            and not node.attr.startswith("_foreach_")
        ]
    return faults


def heavy_modules(root):
    """Modules that cannot be imported without PyTorch, though they should."""
    names = [
        f"{root.name}.{name}"
        for name in modules(root)
        if any(f"{name}.".startswith(f"{light}.") for light in LIGHT)
    ]
    script = f"""
import importlib, sys

class WithoutTorch:
    def find_spec(name, path, target=None):
        if name == "torch":
            raise ImportError("found torch")

sys.meta_path.insert(0, WithoutTorch)
sys.path.insert(0, {str(root.parent)!r})
for name in {[root.name, *names]!r}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{{name}}: {{error}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


CHECKS = (
    arrows, circles, hidden_imports, long_modules, strangers_in_the_hall, private_names,
    heavy_modules,
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_is_in_order(check):
    assert check(ROOT) == []


def test_all_rooms_are_there():
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ARROWS) - {"__main__"}
    # Neither is anything passed over, nor are there fewer modules than files.
    assert len(modules(ROOT)) == len(list(ROOT.rglob("*.py"))) > 100


def house(folder, extra=()):
    """A small package in good order, with some files beside."""
    files = {
        "__init__.py": '__version__ = "1"\n',
        "errors.py": "import os.path\n",
        "registry.py": "from .errors import __doc__\n",
        "io/__init__.py": "",
        "io/files.py": "from .. import __version__\nfrom ..errors import __doc__\n",
        "psf/__init__.py": "from .base import *\n",
        "psf/base.py": "from ..io.files import __doc__\n",
        "survey/__init__.py": "from .read import *\n",
        "survey/read.py": "from ..psf import base\nfrom .. import registry\n",
        "views/__init__.py": "",
        "views/view.py": "from ..survey import *\n\n\ndef f():\n    import torch\n",
        "diffusion/__init__.py": "",
        "diffusion/random.py": "import numpy as np\nfrom ..registry import *\n",
        "diffusion/priors/__init__.py": "",
        "diffusion/priors/base.py": "from ..random import *\n",
        "diffusion/priors/other.py": "from .base import *\n",
        "diffusion/sampling/__init__.py": "",
        "diffusion/sampling/chains.py": "from ..priors import base\n",
        **dict(extra),
    }
    root = folder / "small"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("check", CHECKS)
def test_a_small_package_in_order_passes(check, tmp_path):
    assert check(house(tmp_path)) == []


@pytest.mark.parametrize(
    ("check", "file", "text", "fault"),
    [
        (arrows, "survey/a.py", "from ..views import view\n", "survey.a:1: survey -> views"),
        (arrows, "psf/a.py", "import os\nimport small.survey\n", "psf.a:2: psf -> survey"),
        (arrows, "io/a.py", "from .. import registry\n", "io.a:1: io -> registry"),
        (arrows, "io/a.py", "from ..psf.base import x\n", "io.a:1: io -> psf"),
        (arrows, "diffusion/a.py", "from ..views import x\n", "diffusion.a:1: diffusion -> views"),
        (arrows, "errors.py", "from . import io\n", "errors:1: errors -> io"),
        (arrows, "views/a.py", "from .. import View\n", "views.a:1: View from the package's root"),
        (arrows, "attic/__init__.py", "", "attic: in none of the rooms"),
        (circles, "psf/base.py", "from . import __doc__\n", "psf -> psf.base"),
        (circles, "errors.py", "from .registry import x\n", "errors -> registry"),
        (circles, "psf/up.py", "from ..survey.read import x\n", "psf -> survey"),
        (circles, "diffusion/priors/up.py", "from ..sampling.chains import x\n",
         "diffusion.priors -> diffusion.sampling"),
        (hidden_imports, "io/a.py", "def f():\n    import os\n", "io.a:2: os inside a function"),
        (hidden_imports, "io/a.py", "class A:\n async def f(self):\n  from . import files\n",
         "io.a:3: files inside a function"),
        (hidden_imports, "io/a.py", "import importlib\nimportlib.import_module('x')\n",
         "io.a:2: import_module"),
        (hidden_imports, "io/a.py", "__import__('x')\n", "io.a:1: __import__"),
        (long_modules, "io/a.py", "#\n" * 451, "io.a: 451 lines"),
        (strangers_in_the_hall, "plotting.py", "", "plotting.py"),
        (private_names, "psf/a.py", "from ..io.files import _f\n", "psf.a:1: _f"),
        (private_names, "psf/a.py", "from numpy._core import f\n", "psf.a:1: f"),
        (private_names, "psf/a.py", "from ..io import files\nfiles._f()\n", "psf.a:2: files._f"),
        (private_names, "psf/a.py", "import math\nmath._f()\n", "psf.a:2: math._f"),
        (heavy_modules, "io/a.py", "from torch import nn\n", "small.io.a: found torch"),
    ],
)  # fmt: skip
def test_a_fault_is_found(check, file, text, fault, tmp_path):
    found = check(house(tmp_path, {file: text}))
    if check is circles:  # one of rooms is seen as one of modules, too; and they have no beginning
        assert frozenset(fault.split(" -> ")) in {frozenset(f.split(" -> ")) for f in found}
    else:
        assert found == [fault]
