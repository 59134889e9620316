import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from astro_ddprism import InputError, registry
from astro_ddprism.registry import Registry


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
