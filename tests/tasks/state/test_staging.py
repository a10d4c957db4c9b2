import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import DiskError
from tasks.state.staging import Kept, file_of, kind, read, resize_image, write


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("clouds", [True, False])
def test_what_is_written_is_read(tmp_path: Path, dtype: str, clouds: bool) -> None:
    random = np.random.default_rng(3)
    image = (random.random((4, 9, 13)) * 200).astype(dtype)
    hidden = random.random((9, 13)) < 0.3
    unusable = random.random((9, 13)) < 0.3 if clouds else None
    size, sha256 = write(tmp_path, "scene/0-512@20180101", Kept(image, hidden, unusable))
    path = file_of(tmp_path, "scene/0-512@20180101")
    assert path == tmp_path / "scene" / "0-512@20180101.npy"
    assert path.stat().st_size == size
    found = read(path, sha256)
    assert found is not None
    assert found.image.dtype == image.dtype
    assert np.array_equal(found.image, image)
    assert np.array_equal(found.hidden, hidden)
    assert (found.unusable is None) == (not clouds)
    if unusable is not None:
        assert np.array_equal(found.unusable, unusable)  # type: ignore[arg-type]
    assert kind(path) == (dtype, 4, 9, 13)
    assert write(tmp_path, "again", Kept(image, hidden, unusable))[1] == sha256  # no time of day in the bytes
    assert not list(tmp_path.rglob("*.part"))


def test_a_changed_or_missing_file_is_no_window(tmp_path: Path) -> None:
    _, sha256 = write(tmp_path, "a", Kept(np.zeros((1, 4, 4), np.uint8), np.zeros((4, 4), np.bool_), None))
    path = file_of(tmp_path, "a")
    assert read(path, "0" * 64) is None
    path.write_bytes(path.read_bytes()[:-1])
    assert read(path, sha256) is None
    path.unlink()
    assert read(path, sha256) is None
    with pytest.raises(DiskError, match=r"a\.npy: cannot be read"):
        kind(path)
    path.write_bytes(b"no array")
    with pytest.raises(DiskError, match=r"a\.npy: cannot be read"):
        kind(path)


@given(st.text(min_size=1, max_size=40))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    folder = Path("/images")
    path = file_of(folder, name)
    assert path.is_relative_to(folder)
    assert ".." not in path.parts


def test_pickles_are_not_read(tmp_path: Path) -> None:
    import hashlib

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    path = tmp_path / "evil.npy"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="allow_pickle"):
        read(path, hashlib.sha256(buffer.getvalue()).hexdigest())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_resized_images_keep_their_type_and_range(dtype: str) -> None:
    image = np.zeros((2, 8, 8), dtype=dtype)
    image[:, :, 4:] = 200
    small = resize_image(image, 4)
    assert small.dtype == image.dtype
    assert small.shape == (2, 4, 4)
    assert small.min() >= 0
    assert small.max() <= 200
    assert np.array_equal(small[0, 0, [0, 3]], [0, 200])
