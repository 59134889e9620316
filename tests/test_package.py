"""The package as it is installed: names, metadata, and what its import costs."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import distribution, requires
from pathlib import Path

import asdf
import numpy as np
import pytest
from packaging.requirements import Requirement

import astro_ddprism

PACKAGE = Path(astro_ddprism.__file__).parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(PACKAGE)], prefix="astro_ddprism.")
    if not module.ispkg and not module.name.endswith("__main__")
)


def run_python(code):
    """Run code in an interpreter of its own, from the folder that holds this package."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_version_is_that_of_the_distribution():
    assert re.fullmatch(r"\d+(\.\d+)+(\.dev\d+|a\d+|b\d+|rc\d+)?", astro_ddprism.__version__)
    assert distribution("astro-ddprism").version == astro_ddprism.__version__


def test_metadata():
    metadata = distribution("astro-ddprism").metadata
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata.get_all("License-File") == ["LICENSE.rst"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"test", "docs", "benchmark"} <= set(metadata.get_all("Provides-Extra"))


def test_entry_points():
    entry_points = {e.group: e for e in distribution("astro-ddprism").entry_points}
    assert entry_points["console_scripts"].name == "ddprism"
    assert callable(entry_points["console_scripts"].load())
    extensions = entry_points["asdf.extensions"].load()()
    assert extensions
    installed = {e.extension_uri for e in asdf.get_config().extensions}
    assert {e.extension_uri for e in extensions} <= installed


@pytest.mark.parametrize("name", astro_ddprism.__all__)
def test_public_names(name):
    assert getattr(astro_ddprism, name) is not None
    assert name in dir(astro_ddprism)


def test_unknown_name():
    with pytest.raises(AttributeError, match="'astro_ddprism' has no attribute 'Deblender'"):
        astro_ddprism.Deblender  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_is_public(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert module.__all__
    for public in module.__all__:
        assert getattr(module, public).__doc__, f"{name}.{public} has no docstring"


def test_numpy_2():
    assert int(np.__version__.split(".")[0]) >= 2
    assert "numpy>=2" in requires("astro-ddprism")


def test_what_is_locked_is_what_is_asked_for():
    """Each package once, with hashes, and no place to fetch it from; each within its bounds."""
    text = (Path(__file__).parents[1] / ".ci" / "locked.txt").read_text()
    assert "://" not in text
    entries = re.findall(
        r"^([\w.-]+)==(\S+) ((?:\\\n +--hash=sha256:[0-9a-f]{64} ?)+)$", text, re.M
    )
    locked = {name: version for name, version, _ in entries}
    assert len(entries) == len(locked) == len(re.findall(r"^\w", text, re.M)) > 50
    asked = [Requirement(line) for line in requires("astro-ddprism")]
    asked = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": "test"})]
    assert len(asked) > 15
    for one in asked:
        assert one.specifier.contains(locked[one.name.lower()], prereleases=True), str(one)


def test_dependencies_are_those_imported():
    """What is declared is what some module imports, and what is found without an import of ours."""
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "astro_ddprism"}
    distributions = {name.lower() for name in imported}
    # photutils' deblending imports scikit-image, asdf finds asdf-astropy by its entry points
    distributions |= {"scikit_image", "asdf_astropy"}
    declared = {
        re.match(r"[\w-]+", requirement).group().lower().replace("-", "_")
        for requirement in requires("astro-ddprism")
        if "extra ==" not in requirement
    }
    # of the extra "survey", without which its command says what to install
    assert declared == distributions - {"distributed", "pyarrow"}


@pytest.mark.parametrize(
    "code",
    [
        "import astro_ddprism; astro_ddprism.InputError; astro_ddprism.__version__",
        "from astro_ddprism.views.files import get_extensions; get_extensions()",
        "from astro_ddprism import survey, psf, frame; from astro_ddprism.io import asdf, fits",
        "from astro_ddprism.cli import main; main(['--help'])",
        "from astro_ddprism.cli import main; main(['fit', '--help'])",
    ],
)
def test_no_torch_where_none_is_needed(code):
    """Not by name: SciPy looks for it among the modules that are loaded."""
    code = f"try:\n    {code}\nfinally:\n    import sys; assert 'torch' not in sys.modules"
    finished = run_python(code)
    assert finished.returncode == 0, finished.stderr


def test_import_in_a_fresh_interpreter():
    """No warning on import, which the tests' own interpreter would not show any more."""
    finished = run_python(
        "from astro_ddprism import evaluate, separator, survey; import astro_ddprism.cli.demo"
    )
    assert finished.returncode == 0, finished.stderr
