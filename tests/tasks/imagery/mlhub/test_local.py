from pathlib import Path

import pytest

from infra.sandbox.services.mlhub import pack
from tasks.errors import RecipeError, SourceError
from tasks.imagery.mlhub.catalogue import mlhub_catalogue
from tasks.recipe.model import Recipe
from tests.tasks.imagery.mlhub.files import KENYA, LABELS, SOURCE, contents, kenya, recipe
from tests.tasks.raster.made import scenes_recipe


def summary(folder: Path, path: str, work: str = "work") -> list[tuple[str, list[tuple[str, list[str]]], bytes]]:
    catalogue = mlhub_catalogue(recipe(folder, reader="local", path=path), folder / work)
    try:
        assert catalogue.requests == 0
        return [
            (
                scene.name,
                [(item.id, sorted(item.assets)) for item in scene.items],
                scene.labels.path().read_bytes() if scene.labels else b"",
            )
            for scene in catalogue.scenes()
        ]
    finally:
        catalogue.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = kenya(tmp_path / "data")
    archives = tmp_path / "archives" / "deep"
    archives.mkdir(parents=True)
    for name in (LABELS, SOURCE):
        (archives / f"{name}.tar.gz").write_bytes(pack(made / KENYA / name))
    (archives / "README.txt").write_text("of the publisher")
    (tmp_path / "one.tgz").write_bytes(pack(made / KENYA))
    return tmp_path


def test_folder_archives_and_one_archive_are_the_same(folder: Path) -> None:
    found = summary(folder, "data")
    assert [name for name, *_ in found] == ["tile_00", "tile_01"]
    assert found[0][1] == [(f"{KENYA}_tile_00_{date}", ["B02", "CLD"]) for date in ("20190606", "20190721")]
    assert f"{KENYA}_tile_00_label/labels.tif".encode() in found[0][2]
    assert not (folder / "work").exists()
    assert summary(folder, "archives") == found
    assert summary(folder, "one.tgz") == found
    assert {Path(name).parts[0] for name in contents(folder / "work")} == {"mlhub"}


def test_mixed_folder_takes_both(folder: Path) -> None:
    (folder / "data" / "labels.tar.gz").write_bytes(pack(folder / "data" / KENYA / LABELS))
    with pytest.raises(SourceError, match=r"both the labels of tile_00; give one dataset, or move one of them away"):
        summary(folder, "data")
    for file in (folder / "data").rglob("labels.tif"):
        file.unlink()
    assert all(labels for *_, labels in summary(folder, "data"))


@pytest.mark.parametrize(("path", "said"), [("none", "does not exist"), ("file.zip", "is a file of another kind")])
def test_path_that_is_nothing_to_read(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "file.zip").touch()
    with pytest.raises(SourceError, match=rf"{path}: {said}; imagery\.path is a folder, .* \(relative to the recipe\)"):
        summary(tmp_path, path)


def test_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    real = "os.scandir"

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(real, refuse)
    with pytest.raises(SourceError, match=r"data: cannot be read \(Permission denied\); correct imagery\.path"):
        summary(tmp_path, "data")


def test_recipe_of_another_source(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"imagery\.source: expected mlhub, it is scenes"):
        mlhub_catalogue(scenes_recipe(tmp_path, "{scene}.tif"), tmp_path)


def test_a_missing_folder_is_told_with_the_recipes_advice(tmp_path: Path) -> None:
    made = Recipe.model_validate(
        {
            "name": "kenya",
            "title": "Kenya",
            "about": {"files": "Put the archives\n there"},
            "imagery": {"source": "mlhub", "reader": "local", "path": str(tmp_path / "none"), "bands": ["B02"]},
            "labels": {"source": "provided"},
            "classes": [{"name": name, "value": n, "color": "#000000"} for n, name in enumerate("ab")],
        }
    )
    with pytest.raises(SourceError, match=r"none: does not exist\. Put the archives there$"):
        mlhub_catalogue(made, tmp_path).scenes()
