"""Models by name."""

import pytest

from astro_ddprism import DiffusionSourceSeparator, InputError, models
from astro_ddprism.models import find_model, list_models


@pytest.fixture
def folder(tmp_path, monkeypatch):
    path = tmp_path / "models"
    path.mkdir()
    for name in ("kids-r.asdf", "hsc-i.asdf", "kids-r.json"):
        (path / name).write_text("a model")
    monkeypatch.setattr(models, "FOLDER", path)
    return path


def test_names_are_those_of_the_files(folder):
    assert list_models() == ("hsc-i", "kids-r")
    assert find_model("kids-r") == folder / "kids-r.asdf"


def test_a_file_that_exists_wins(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kids-r").write_text("my own")
    assert find_model("kids-r").read_text() == "my own"
    assert find_model(tmp_path / "kids-r") == tmp_path / "kids-r"
    for path in ("new.asdf", "folder/kids-r"):  # whoever reads them will say that they are not
        assert str(find_model(path)) == path


def test_unknown_names(folder):
    message = "model: found 'kids-x', which is no file, expected one, .*: hsc-i, kids-r"
    for use in (find_model, DiffusionSourceSeparator.read):
        with pytest.raises(InputError, match=message):
            use("kids-x")


def test_models_that_are_there_can_be_read_and_are_small():
    """Of whatever the package holds: five megabytes in all."""
    for name in list_models():
        model = DiffusionSourceSeparator.read(name, device="cpu")
        assert model.training_.conditions
        told = model._provenance(0).get("flux_prior")
        factors = getattr(model.posterior, "flux_factors", {})
        assert told == (f"uniform in the logarithm: {', '.join(factors)}" if factors else None)
    assert sum(find_model(name).stat().st_size for name in list_models()) < 5_000_000
