"""`vpr data`: what is printed, what is written, exit codes.

Covers cli.data_pictures, plotting.data.
"""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from miniatures import msls_val, touch_image, vpr_bench
from PIL import Image
from test_data_findings import damaged_corridor
from test_download import Shop
from typer.testing import CliRunner

from vpr_lib.cli import _register, app
from vpr_lib.data import catalogue, download, get
from vpr_lib.data.catalogue import Download, Get, load_table, open_dataset
from vpr_lib.data.download import DownloadError, recorded_sum
from vpr_lib.data.unpack import ArchiveError
from vpr_lib.plotting.maps import contact_sheet, plot_distances, plot_map, plot_positive_counts


@pytest.fixture
def vpr(tmp_path, monkeypatch):
    """Run `vpr data ...`; returns what was printed."""
    monkeypatch.setenv("VPR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VPR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "140")
    _register()

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["data", *map(str, arguments)])
        if isinstance(result.exception, ValueError | FileNotFoundError):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.output

    return run


def test_list(vpr, tmp_path):
    text = vpr("list", "--json", tmp_path / "l.json")
    assert all(name in text for name in ("pitts30k_test", "nordland_2760", "svox_night", "boreas"))
    assert "968" not in text and "75,984" in text and "~2,805,840" in text and "Licence" not in text
    told = json.loads((tmp_path / "l.json").read_text())
    assert (
        told["msls_val"]["here"] == "no"
        and told["msls_val"]["get"] == "fetch"
        and len(told) == len(load_table().datasets)
    )
    msls_val(tmp_path / "data/msls")
    assert "yes" in vpr("list", "--family", "msls")
    vpr("prepare", "msls_val_cph")
    assert "prepared" in vpr("list", "--family", "msls")
    with pytest.raises(ValueError, match=r"Unknown family 'mls'. Did you mean 'msls'"):
        vpr("list", "--family", "mls")


def test_get_by_hand_gives_exact_steps(vpr, tmp_path):
    text = vpr("get", "pitts250k_test", code=1)
    assert str(tmp_path / "data/pittsburgh") in text.replace("\n", "") and "netvlad_v100_datasets.tar.gz" in text
    assert "There is no public address" in text
    for name in load_table().datasets:
        for step in catalogue.how_to_get(name).steps:
            assert "{folder}" not in step.format(folder="F") and "{{" not in step.format(folder="F")


def test_get_fetches_unpacks_and_remembers(vpr, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MARGIN_BYTES", 0)
    shop, content = Shop(), io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("corridor/ref/0000000.jpg", b"a")
        archive.writestr("corridor/ground_truth_new.npy", b"")
    shop.data = content.getvalue()
    way = Get(downloads=[Download(url=shop.url, file="corridor.zip", into="corridor")])
    for module in (catalogue, get):
        monkeypatch.setattr(module, "how_to_get", lambda name: way)
    text = vpr("get", "corridor")
    assert "licence" in text and "vpr data check corridor" in text.replace("\n", " ")
    assert (tmp_path / "data/corridor/ref/0000000.jpg").read_bytes() == b"a"
    assert recorded_sum(shop.url) and not (tmp_path / "data/archives/corridor.zip").exists()
    vpr("get", "corridor")
    assert len(shop.requests) == 1  # it is there
    shop.server.shutdown()


def program(folder, name, script, monkeypatch):
    """A stand-in for another program, first on the path; it notes how it was called."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {folder}/calls\n{script}\n')
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "calls"


def test_a_share_is_copied_by_rsync_and_goes_on_after_a_break(vpr, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MARGIN_BYTES", 0)
    place = tmp_path / "data/st_lucia"
    calls = program(tmp_path / "bin", "rsync", "exit 10", monkeypatch)
    with pytest.raises(DownloadError, match=r"rsync ended with code 10. What arrived is kept"):
        vpr("get", "st_lucia")
    program(tmp_path / "bin", "rsync", f"mkdir -p {place}/images/test/database", monkeypatch)
    assert "needs about 0.4 GB" in vpr("get", "st_lucia")
    assert calls.read_text().splitlines()[1] == (
        f"rsync -rhz --partial --info=progress2 rsync://vandaldata.polito.it/sf_xl/VPR-datasets-downloader/st_lucia/ {place}/"
    )
    vpr("get", "st_lucia")
    assert len(calls.read_text().splitlines()) == 2  # it is here
    monkeypatch.setattr(download, "MARGIN_BYTES", 1 << 60)
    with pytest.raises(DownloadError, match=r"nordland_27592 needs 10.0 GB more"):
        vpr("get", "nordland_27592")
    monkeypatch.setattr(download, "MARGIN_BYTES", -(1 << 60))  # however full this disk is
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(DownloadError, match="rsync is not installed"):
        vpr("get", "nordland_27592")


def test_kaggle_s_client_is_used_where_its_credentials_are(vpr, tmp_path, monkeypatch):
    from vpr_lib.data import get as getting

    monkeypatch.setattr(download, "MARGIN_BYTES", 0)
    monkeypatch.setattr(getting, "disk_need_gb", lambda name: 0.001)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    assert "pip install kaggle" in vpr("get", "gsv_cities", code=1)
    (tmp_path / "kaggle").mkdir()
    (tmp_path / "kaggle/kaggle.json").write_text("{}")
    with zipfile.ZipFile(tmp_path / "gsv.zip", "w") as archive:
        archive.writestr("Dataframes/Rome.csv", "place_id")
        archive.writestr("Images/Rome/a.jpg", b"")
    calls = program(
        tmp_path / "bin", "kaggle", f"cp {tmp_path}/gsv.zip {tmp_path}/data/archives/gsv-cities.zip", monkeypatch
    )
    assert "vpr data check gsv_cities" in vpr("get", "gsv_cities").replace("\n", " ")
    assert "kaggle datasets download amaralibey/gsv-cities" in calls.read_text()
    assert (tmp_path / "data/gsv_cities/Dataframes/Rome.csv").is_file()
    assert not (tmp_path / "data/archives/gsv-cities.zip").exists()


def test_get_for_a_profile_goes_on_after_a_failure(vpr, tmp_path, monkeypatch):
    from vpr_lib.data import get as getting

    def broken(name, keep_archive):
        raise DownloadError(f"no {name}")

    monkeypatch.setattr(getting, "fetch_all", broken)
    monkeypatch.delenv("VPR_HOME")  # the notebooks of this checkout
    text = vpr("get", "--profile", "light", code=1)
    assert all(f"no {name}" in text for name in ("pitts30k_val", "msls_val", "gsv_cities_light"))
    assert "0 of 3 data sets are here" in text and "failed, run this again: pitts30k_val, msls_val" in text
    monkeypatch.setattr(getting, "fetch_all", lambda name, keep_archive: None)
    text = " ".join(vpr("get", "--profile", "released", code=1).split())
    assert "the same steps as for pitts30k_test, above" in text and "failed" not in text
    assert "by hand, see above: pitts30k_test, " in text
    with pytest.raises(ValueError, match="Say NAME or --profile P"):
        vpr("get")


def test_a_corrupt_archive_is_fetched_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("VPR_DATA", str(tmp_path))
    monkeypatch.setattr(download, "MARGIN_BYTES", 0)
    shop, content = Shop(), io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", np.random.default_rng(0).bytes(5000))
    good = content.getvalue()
    shop.data = good[:2000] + b"\0" * 20 + good[2020:]
    archive = Download(url=shop.url, file="a.zip", into="set")
    with pytest.raises(ArchiveError, match="Delete it and get it again"):
        get.fetch_dataset(archive, quiet=True, wait_s=0)
    assert (
        not (tmp_path / "set").exists()
        and not (tmp_path / "archives/a.zip").exists()
        and recorded_sum(shop.url) is None
    )
    shop.data = good
    get.fetch_dataset(archive, quiet=True, wait_s=0, keep_archive=True)
    assert (tmp_path / "set/a.jpg").stat().st_size == 5000 and (tmp_path / "archives/a.zip").is_file()
    (tmp_path / "archives/a.zip").unlink()
    shop.data = good + b"changed"
    with pytest.raises(DownloadError, match="from its first download"):
        get.fetch_dataset(archive.model_copy(update={"into": "set2"}), quiet=True, wait_s=0)
    shop.server.shutdown()


def test_prepare_prints_totals(vpr, tmp_path):
    vpr_bench(tmp_path / "c", [(0, [0])], 1, 1)
    text = vpr("prepare", "corridor", "--root", tmp_path / "c", "--json", tmp_path / "p.json")
    assert "[V] expected 111" in text and "kept in" in text
    assert json.loads((tmp_path / "p.json").read_text())["totals"]["positives corridor@listed"] == 1


def test_check_tells_and_fails(vpr, tmp_path):
    root = damaged_corridor(tmp_path / "c")
    text = vpr("check", "corridor", "--root", root, "--json", tmp_path / "c.json", code=1)
    assert (
        "1 of 12 files are empty" in text
        and "5 failures, 1 warning (12 files" in text
        and "database: expected 111 [V]" in text
    )
    told = json.loads((tmp_path / "c.json").read_text())
    assert told["ok"] is False and told["totals"]["database"] == 6
    vpr("check", "vpr_bench", "--root", vpr_bench(tmp_path / "ok", [(0, [0])], 1, 1))


def test_show_draws_a_sheet_and_a_map(vpr, tmp_path):
    from miniatures import at_name

    for side in ("database", "queries"):
        for n in range(3):
            touch_image(tmp_path / "s/images/test" / side / at_name(1000 + 20 * n, 2000, f"{side}{n}"), n)
    (tmp_path / "s/images/test/queries" / at_name(1000, 2000, "queries0")).write_bytes(b"broken")
    text = vpr("show", "st_lucia", "--root", tmp_path / "s", "--out", tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == ["st_lucia_map.png", "st_lucia_sheet.png"]
    assert all(str(path) in text.replace("\n", "") and Image.open(path).width > 300 for path in files)


def test_show_without_positions_or_pictures(vpr, tmp_path):
    vpr_bench(tmp_path / "c", [(0, [0])], 1, 1)
    vpr("show", "corridor", "--root", tmp_path / "c")
    assert [p.name for p in (tmp_path / "home/figures/data").iterdir()] == ["corridor_sheet.png"]
    for path in (tmp_path / "c").glob("*/*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="the file is empty"):
        vpr("show", "corridor", "--root", tmp_path / "c")


def test_show_places_and_clouds(vpr, tmp_path, monkeypatch):
    from miniatures import RUNS, lidar2image, oxford_locations, stamp

    from vpr_lib.data.readers import submaps

    monkeypatch.setattr(submaps, "EVALUATION_RUNS", RUNS)
    rows = [
        "place_id,year,month,northdeg,city_id,lat,lon,panoid",
        *(f"{p},2010,1,3,Rome,1.5,2.5,{p}{n}" for p in (1, 2) for n in range(5)),
    ]
    (tmp_path / "g/Dataframes").mkdir(parents=True)
    (tmp_path / "g/Dataframes/Rome.csv").write_text("\n".join(rows))
    for path in open_dataset("gsv_cities", tmp_path / "g").image_paths():
        touch_image(Path(path))
    assert "gsv_cities_sheet.png" in vpr("show", "gsv_cities", "--root", tmp_path / "g").replace("\n", "")
    root = oxford_locations(tmp_path / "o")
    with pytest.raises(ValueError, match="holds clouds without images"):
        vpr("show", "oxford", "--root", root)
    lidar2image(root / "images/lidar2image_ndx.pickle")
    touch_image(root / "images" / RUNS[0] / f"{stamp(0, 0) + 7}.png")
    assert "oxford_map.png" in vpr("show", "oxford", "--root", root).replace("\n", "")


# ---- the drawings


def test_maps_mark_queries_without_a_positive():
    rng = np.random.default_rng(0)
    database, queries = rng.uniform(0, 500, (200_000, 2)), rng.uniform(0, 500, (10, 2))
    matched = np.arange(10) > 2
    ax = plot_map(database, queries, matched, links=np.array([[0, 5]]))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["database (200,000)", "queries (7)", "queries without a positive (3)"]
    assert len(ax.collections[0].get_offsets()) <= 60_000 and ax.get_aspect() == 1


def test_histograms():
    ax = plot_positive_counts([np.array([0, 0, 1, 5]), np.array([2, 2])], ["a", "b"])
    heights = [bar.get_height() for bar in ax.patches]
    assert heights[0] == 50 and sum(heights) == pytest.approx(200)
    ax = plot_distances(np.array([1.0, 30.0, np.nan]), 25.0)
    assert "33.3 % beyond" in ax.texts[0].get_text()
    plot_positive_counts([np.zeros(0)], ["none"])


def test_contact_sheet_has_a_picture_per_caption():
    figure = contact_sheet([Image.new("L", (9, 40), n) for n in range(5)], list("abcde"), columns=3)
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c", "d", "e", ""]
