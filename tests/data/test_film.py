"""Films as folders: even times, names, upright pictures, places of a GPX track; and what cannot be read."""

import struct

import numpy as np
import pytest
from films import CLOCK, POINT, write_film, write_gpx
from PIL import Image

from vpr_lib.data.readers import film
from vpr_lib.data.readers.exif import read_gps
from vpr_lib.data.readers.film import folder_of
from vpr_lib.data.readers.folders import read_folders
from vpr_lib.data.readers.gpx import read_gpx
from vpr_lib.data.readers.image_files import list_images


@pytest.fixture
def walk(tmp_path):
    """A film of 4 s at 10 frames per second, brighter with every frame, its left upper corner red."""
    return write_film(tmp_path / "walk@home.mp4")


def test_frames_at_even_times_once(walk):
    folder = folder_of(walk, 2)
    names = sorted(path.name for path in folder.glob("*.jpg"))
    assert names == [f"walk_home_{step / 2:08.2f}s.jpg" for step in range(8)]
    grey = [np.asarray(Image.open(folder / name))[40, 60].mean() for name in names]
    assert grey == pytest.approx(5 * 5 * np.arange(8), abs=6)
    before = folder.stat().st_mtime_ns
    assert folder_of(walk, 2) == folder and folder.stat().st_mtime_ns == before
    assert len(list_images(folder_of(walk, 0.5))) == 2 and len(list_images(folder_of(walk, 100))) == 40
    assert folder_of(walk.parent) == walk.parent  # a folder stays what it is


def test_a_film_held_upright_is_upright(walk):
    """The matrix of the track that a phone writes for a quarter turn to the right."""
    content = bytearray(walk.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    walk.write_bytes(content)
    picture = np.asarray(Image.open(min(folder_of(walk).glob("*.jpg"))))
    assert picture.shape == (96, 64, 3)
    assert picture[5, -5, 0] > 200 and picture[5, 5, 0] < 50  # red has come to the right


def test_a_track_gives_places_by_the_clock_of_the_film(walk):
    write_gpx(walk.with_suffix(".gpx"), "2026-05-01T09:59:58Z", "2026-05-01T10:00:06Z", lon=-8.0)
    places = np.array([read_gps(path)[:2] for path in sorted(folder_of(walk).glob("*.jpg"))])
    np.testing.assert_allclose(places[:, 0], 48 + 0.001 * (np.arange(4) + 2) / 8, atol=1e-7)
    np.testing.assert_allclose(places[:, 1], -8.0, atol=1e-7)
    found = read_folders(folder_of(walk), folder_of(walk, 0.5))
    assert found.database.has_positions and [list(row) for row in found.positives] == [[0, 1], [1, 2, 3]]


def test_a_track_of_another_day_begins_with_the_film(walk, caplog):
    write_gpx(walk.with_suffix(".gpx"), "2020-01-01T00:00:00", "2020-01-01T00:00:03")
    places = [read_gps(path)[0] for path in sorted(folder_of(walk).glob("*.jpg"))]
    assert "its clock is none that the track covers" in caplog.text
    np.testing.assert_allclose(places, 48 + 0.001 * np.arange(4) / 3, atol=1e-7)


def test_frames_beyond_the_track_have_no_place(tmp_path):
    film_of_8_s = write_film(tmp_path / "long.mp4", 80)
    write_gpx(film_of_8_s.with_suffix(".gpx"), "2026-05-01T09:59:57Z", "2026-05-01T10:00:00Z")
    places = [read_gps(path) for path in sorted(folder_of(film_of_8_s).glob("*.jpg"))]
    assert [place is None for place in places] == [False] * 6 + [True] * 2
    side = read_folders(folder_of(film_of_8_s), folder_of(film_of_8_s)).database
    assert side.positions()[6:].tolist() == [[0, 0], [0, 0]] and (side.positions()[:6] > 0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [("<gpx><trk>", "is not a readable GPX"), ("<gpx/>", "0 track points, none with a time"),
     (f"<gpx>{POINT.format(1, 2, '')}</gpx>", "1 track points, none with a time"),
     (f"<gpx>{POINT.format('x', 2, f'<time>{CLOCK}</time>')}</gpx>", "is not a readable GPX")],
)  # fmt: skip
def test_tracks_that_are_none(tmp_path, text, message):
    (tmp_path / "a.gpx").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_gpx(tmp_path / "a.gpx")


def test_films_that_are_none(walk, tmp_path, monkeypatch, caplog):
    with pytest.raises(FileNotFoundError, match="No film"):
        folder_of(tmp_path / "absent.mov")
    with pytest.raises(ValueError, match="positive number of frames per second, got 0"):
        folder_of(walk, 0)
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(ValueError, match="cannot be read as a film"):
        folder_of(tmp_path / "text.mp4")
    assert not list((tmp_path / "vpr-cache/frames").glob("text*"))
    monkeypatch.setattr(film, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'vpr-workbook\[video\]'"):
        folder_of(walk)


def test_a_film_cut_short_gives_what_it_holds(tmp_path, caplog):
    whole = write_film(tmp_path / "walk.mkv")
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    names = [path.name for path in folder_of(tmp_path / "cut.mkv").glob("*.jpg")]
    assert 1 <= len(names) < 4
