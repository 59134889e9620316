import math
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import numpy as np
import pytest

from astro_ddprism import InputError, registry
from astro_ddprism.registry import Part, Registry, checked_fields, option, to_tree


@pytest.fixture
def shapes():
    shapes = Registry("shape", entry_points="tests.shapes")
    shapes.register("circle")(type("Circle", (), {"__module__": "ours"}))
    return shapes


@pytest.fixture
def plugins(monkeypatch, tmp_path):
    """Entry points to modules of a package that is installed, in some other group also."""
    (tmp_path / "plugged_shapes.py").write_text("class Square: pass\nclass Other: pass\n")
    (tmp_path / "broken_shapes.py").write_text("raise RuntimeError('no shapes today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint("square", "plugged_shapes:Square", "tests.shapes"),
        EntryPoint("triangle", "broken_shapes:Triangle", "tests.shapes"),
        EntryPoint("twice", "plugged_shapes:Square", "tests.shapes"),
        EntryPoint("twice", "plugged_shapes:Other", "tests.shapes"),
        EntryPoint("cube", "plugged_shapes:Square", "tests.solids"),
    ]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: EntryPoints(points).select(group=group)
    )
    yield
    for name in ("plugged_shapes", "broken_shapes"):
        sys.modules.pop(name, None)


def test_names():
    shapes = Registry("shape")

    @shapes.register()
    class Square:
        pass

    @shapes.register("circle")
    class Circle:
        pass

    assert shapes["Square"] is Square
    assert shapes["circle"] is Circle
    assert "circle" in shapes
    assert "Circle" not in shapes
    assert shapes.names() == tuple(shapes) == ("Square", "circle")
    assert shapes.name_of(Square) == "Square"
    assert shapes.name_of(Circle()) == "circle"
    with pytest.raises(InputError, match=r"^shape: found 'cube', expected one of Square, circle$"):
        shapes["cube"]
    with pytest.raises(InputError, match=r"^shape: found builtins\.int, expected one of Square"):
        shapes.name_of(3)


def test_a_second_class_of_a_name_is_refused(shapes):
    ours = shapes["circle"]
    theirs = type("Circle", (), {"__module__": "theirs"})
    with pytest.raises(InputError, match=r"^shape 'circle': found theirs\.Circle beside ours\.C"):
        shapes.register("circle")(theirs)
    assert shapes["circle"] is ours


def test_the_same_class_may_come_again(shapes):
    """As when its module is reloaded; objects of the old one keep their name."""
    old = shapes["circle"]
    again = shapes.register("circle")(type("Circle", (), {"__module__": "ours"}))
    assert shapes["circle"] is again is not old
    assert shapes.name_of(old()) == shapes.name_of(again) == "circle"


def test_plugins_are_imported_when_they_are_asked_for(shapes, plugins):
    assert shapes.names() == ("circle", "square", "triangle", "twice")
    assert "square" in shapes
    assert "cube" not in shapes
    assert "plugged_shapes" not in sys.modules
    square = shapes["square"]
    assert square is sys.modules["plugged_shapes"].Square
    assert shapes.name_of(square()) == "square"
    with pytest.raises(InputError, match=r"found 'cube', expected one of circle, square, triangle"):
        shapes["cube"]


def test_a_plugin_that_cannot_be_imported_is_named(shapes, plugins):
    message = r"^shape 'triangle': .* broken_shapes:Triangle \(RuntimeError: no shapes today\)$"
    with pytest.raises(InputError, match=message):
        shapes["triangle"]
    assert shapes["circle"].__module__ == "ours"


def test_two_plugins_of_a_name_are_refused(shapes, plugins):
    message = r"'twice': found plugged_shapes:Square and plugged_shapes:Other, expected one class"
    with pytest.raises(InputError, match=message):
        shapes["twice"]


# --- parts ----------------------------------------


class Lens(Part):
    registry = Registry("lens", entry_points="tests.lenses")


@Lens.registry.register("thin")
@dataclass(frozen=True)
class Thin(Lens):
    focus: float = option(2.0, above=0, most=10)
    order: int = option(1, least=1)
    glass: str = option("crown", choices=("crown", "flint"))


@Lens.registry.register("thick")
@dataclass(frozen=True)
class Thick(Lens):
    front: Lens = option(Thin())
    widths: tuple[float, ...] = option((1.0, 2.0), least=0)
    pair: tuple[int, float] = (1, 2.0)
    stops: dict[str, tuple[float, float]] = option({}, above=0)
    coated: bool = False
    limit: int | None = option(None, least=1)
    turns: int | dict[str, int] = option(3, least=0)


def test_parts_from_tables_names_and_objects():
    """Nested tables become parts, names stand for defaults, and numbers get their type."""
    tree = {
        "name": "thick",
        "front": {"name": "thin", "focus": 3},
        "widths": [1, np.float32(0.5)],
        "pair": [np.int64(4), 5],
        "stops": {"a": [1, 2]},
        "turns": {"a": 0},
    }
    lens = Lens.from_tree(tree)
    assert lens == Thick(Thin(3.0), (1.0, 0.5), (4, 5.0), {"a": (1.0, 2.0)}, turns={"a": 0})
    assert type(lens.front.focus) is type(lens.widths[0]) is type(lens.pair[1]) is float
    assert type(lens.pair[0]) is int
    assert Lens.from_tree("thin") == Lens.from_tree({"name": "thin"}) == Thin()
    assert Lens.from_tree(lens) is lens
    assert Thick(front="thick").front == Thick()
    assert Thick.from_tree(lens.to_tree()) == lens
    assert lens.to_tree() == {
        "name": "thick",
        "front": {"name": "thin", "focus": 3.0, "order": 1, "glass": "crown"},
        "widths": [1.0, 0.5],
        "pair": [4, 5.0],
        "stops": {"a": [1.0, 2.0]},
        "coated": False,
        "limit": None,
        "turns": {"a": 0},
    }
    with pytest.raises(AttributeError, match="focus"):
        lens.front.focus = 4.0
    Thick().stops["a"] = (1.0, 1.0)  # defaults are not shared
    assert Thick().stops == {}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("wide", "^lens: found 'wide', expected one of thick, thin$"),
        (3, "^lens: found 3, expected a lens, one of thick, thin, or a table with its name$"),
        ({"focus": 2}, "^lens: found a table without a name, expected one of thick, thin$"),
        ({"name": 3}, "^lens: found a table without a name"),
        ({"name": "thin", "x": 1, "b": 2}, "^Thin: found b, x, expected options out of focus, or"),
        ({"name": "thin", "focus": "2"}, "^Thin.focus: found '2', expected a number$"),
        ({"name": "thin", "focus": True}, "^Thin.focus: found True, expected a number$"),
        ({"name": "thin", "focus": 0}, "^Thin.focus: found 0.0, expected a number above 0$"),
        ({"name": "thin", "focus": 11}, "^Thin.focus: found 11.0, expected a number not above 10"),
        ({"name": "thin", "focus": math.inf}, "^Thin.focus: found inf, expected a finite number$"),
        ({"name": "thin", "focus": None}, "^Thin.focus: found None, expected a number$"),
        ({"name": "thin", "order": 1.5}, "^Thin.order: found 1.5, expected an integer$"),
        ({"name": "thin", "order": 0}, "^Thin.order: found 0, expected a number not below 1$"),
        (
            {"name": "thin", "order": 10**20},
            r"^Thin.order: found 1.*0, expected .*above 1e\+12$",
        ),
        ({"name": "thin", "glass": "ice"}, "^Thin.glass: found 'ice', expected one of crown, fli"),
        ({"name": "thin", "glass": 2}, "^Thin.glass: found 2, expected a text$"),
        ({"name": "thick", "front": {"name": "thin", "order": 0}}, "^Thin.order: found 0"),
        ({"name": "thick", "widths": [1, "x"]}, "^Thick.widths: found 'x', expected a number$"),
        ({"name": "thick", "widths": [1, -1]}, "^Thick.widths: found -1.0, expected a number not"),
        ({"name": "thick", "widths": "12"}, "^Thick.widths: found '12', expected a list, each a n"),
        ({"name": "thick", "pair": [1]}, r"^Thick.pair: found \[1\], expected 2 values"),
        ({"name": "thick", "stops": {1: [1, 2]}}, "^Thick.stops: found 1, expected a text$"),
        ({"name": "thick", "stops": {"a": [0, 2]}}, "^Thick.stops: found 0.0, expected a number a"),
        ({"name": "thick", "stops": [1]}, r"^Thick.stops: found \[1\], expected a table, each 2 v"),
        ({"name": "thick", "coated": 1}, "^Thick.coated: found 1, expected true or false$"),
        ({"name": "thick", "limit": "x"}, "^Thick.limit: found 'x', expected an integer$"),
        ({"name": "thick", "limit": 0}, "^Thick.limit: found 0, expected a number not below 1$"),
        ({"name": "thick", "turns": 1.5}, "^Thick.turns: found 1.5, expected an integer or a tab"),
        ({"name": "thick", "turns": {"a": -1}}, "^Thick.turns: found -1, expected a number not b"),
        (
            {"name": "thick", "turns": {"a": 2**63}},
            "^Thick.turns: found 9.*, expected a n",
        ),
    ],
)
def test_parts_that_cannot_be(tree, message):
    with pytest.raises(InputError, match=message):
        Lens.from_tree(tree)


def test_a_part_of_one_kind_takes_no_other(monkeypatch):
    """Though it has a name: what asks for a thin lens would not know what to do with another."""

    @dataclass(frozen=True)
    class Eyepiece(Part):
        lens: Thin = option(Thin())

    assert Eyepiece("thin") == Eyepiece({"name": "thin"}) == Eyepiece()
    for other in ("thick", {"name": "thick"}):
        with pytest.raises(
            InputError, match=r"^lens 'thick': found .*Thick, expected a kind of Th"
        ):
            Eyepiece(other)
    with pytest.raises(InputError, match=r"^lens: found Thick\(.*, expected a lens, one of"):
        Eyepiece(Thick())
    points = EntryPoints([EntryPoint("alien", "builtins:int", "tests.lenses")])
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    monkeypatch.setattr(Lens.registry, "_classes", dict(Lens.registry._classes))
    with pytest.raises(
        InputError, match=r"^lens 'alien': found builtins\.int, expected a kind of L"
    ):
        Lens.from_tree("alien")


def test_annotations_that_are_text(monkeypatch, tmp_path):
    """As ``from __future__ import annotations`` leaves them, of a part that a plug-in brings."""
    (tmp_path / "plugged_lenses.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from astro_ddprism.registry import option\n"
        "from lenses import Lens\n"
        "@dataclass(frozen=True)\n"
        "class Fresnel(Lens):\n"
        "    grooves: int = option(5, least=1)\n"
        "    radii: tuple[float, ...] | None = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "lenses", SimpleNamespace(Lens=Lens))
    points = EntryPoints([EntryPoint("fresnel", "plugged_lenses:Fresnel", "tests.lenses")])
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    monkeypatch.setattr(Lens.registry, "_classes", dict(Lens.registry._classes))
    lens = Lens.from_tree({"name": "fresnel", "grooves": 7, "radii": [1, 2]})
    assert type(lens) is sys.modules.pop("plugged_lenses").Fresnel
    assert (lens.grooves, lens.radii) == (7, (1.0, 2.0))
    for options, message in (
        ({"grooves": 0}, "^Fresnel.grooves: found 0, expected a number not below 1"),
        ({"grooves": "x"}, "^Fresnel.grooves: found 'x', expected an integer"),
        ({"radii": ["x"]}, "^Fresnel.radii: found 'x', expected a number"),
    ):
        with pytest.raises(InputError, match=message):
            Lens.from_tree({"name": "fresnel", **options})


def test_fields_of_any_dataclass():
    """Those that are given, and no others."""

    @dataclass
    class Plain:
        n: int = option(3, least=1)
        lens: Lens | None = None

    assert checked_fields(Plain, {"n": 4, "x": 0}) == {"n": 4}
    assert checked_fields(Plain, {"lens": "thin"}) == {"lens": Thin()}
    assert checked_fields(Plain, {"lens": None}) == {"lens": None}
    with pytest.raises(InputError, match=r"^Plain\.n: found 0, expected a number not below 1$"):
        checked_fields(Plain, {"n": 0})
    assert to_tree({"a": (Thin(), 1), "b": None}) == {"a": [Thin().to_tree(), 1], "b": None}
