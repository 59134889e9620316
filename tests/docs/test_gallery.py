"""The scripts of the gallery: what each must have, and that they run without a warning."""

import ast
import re
import runpy
from pathlib import Path

import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"
SCRIPTS = sorted(GALLERY.glob("plot_*.py"))
# Seconds; the others run when the documentation is built.
CHEAPEST = GALLERY / "plot_10_new_source_type.py"


def test_they_stand_in_order():
    numbers = [int(path.name.split("_")[1]) for path in SCRIPTS]
    assert len(numbers) == len(set(numbers)) >= 10
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_has_title_introduction_and_picture(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    title, underline, introduction = ast.get_docstring(tree).split("\n", 2)
    assert set(underline) == {"="}
    assert len(underline) >= len(title) > 10
    assert len(introduction.split()) > 30
    last = tree.body[-1]
    assert isinstance(last, ast.Expr), "the last line shows the picture"
    assert isinstance(last.value, ast.Name)
    assert last.value.id == "figure"
    # A picture is explained by the text of its cell.
    cells = path.read_text(encoding="utf-8").split("# %%\n")
    assert len(cells) > 3
    assert all(re.match(r"# \S", cell) for cell in cells[1:])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_uses_what_a_user_may(path):
    """Nothing private, and nothing of this machine."""
    text = path.read_text(encoding="utf-8")
    names = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute)]
    private = {n.attr for n in names if n.attr.startswith("_")}
    private |= set(re.findall(r"import .*\b_\w+", text))
    assert private == set()
    assert not re.search(r"[\"']/(home|work|tmp|root)\b", text)


def test_the_cheapest_runs_without_a_warning(capsys):
    figure = runpy.run_path(str(CHEAPEST))["figure"]
    assert isinstance(figure, Figure)
    for ax in figure.axes:
        assert ax.get_legend_handles_labels()[1]
    assert figure.axes[-1].get_xlabel() == "wavelength [Å]"
    plain, separated = (
        float(re.search(rf"{name}: off by ([0-9.]+)", text)[1])
        for text in [capsys.readouterr().out]
        for name in ("mean sky subtracted", "separated")
    )
    assert separated < plain / 2
    plt.close("all")
