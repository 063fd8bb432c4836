"""GSV-Cities and gsv-cities-light: Dataframes/<City>.csv and Images/<City>/. Spec: datasets §2, mixvpr §3.1."""

from pathlib import Path

import numpy as np
import pandas as pd

from vpr_lib.data.manifest import Manifest, build_manifest
from vpr_lib.data.readers.lists import read_csv

CITIES = (  # the order of the MixVPR training script; it decides the order of in-city batches
    *("Bangkok", "BuenosAires", "LosAngeles", "MexicoCity", "OSL", "Rome", "Barcelona", "Chicago", "Madrid", "Miami"),
    *("Phoenix", "TRT", "Boston", "Lisbon", "Medellin", "Minneapolis", "PRG", "WashingtonDC", "Brussels", "London"),
    *("Melbourne", "Osaka", "PRS"),
)
COLUMNS = ("place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid")
WHOLE = ("place_id", "year", "month", "northdeg")


def read_gsv_cities(root: Path, cities: list[str] | None = None, name: str = "gsv_cities") -> Manifest:
    """All images of a GSV-Cities-style set as a training manifest; rows follow the CSVs, cities in order.

    Latitude and longitude are read as text, because the file names repeat them digit for digit. `place_id` becomes
    "<table>/<local id>": local ids count per table, and two tables may say one city_id; where a table has several, each counts
    for itself. Years and months become `timestamp`, µs since 1970 at the start of the month.

    Args:
        cities: which, in this order; default the released ones that are there in the authors' order, then others sorted.
    Raises:
        FileNotFoundError: without CSVs. ValueError: if a CSV lacks a column.
    """
    root = Path(root)
    tables = {path.stem for path in (root / "Dataframes").glob("*.csv")}
    if not tables:
        raise FileNotFoundError(f"No CSV under {root / 'Dataframes'}: GSV-Cities keeps one table per city there.")
    if cities is None:
        cities = [city for city in CITIES if city in tables] + sorted(tables - set(CITIES))
    if absent := [city for city in cities if city not in tables]:
        raise FileNotFoundError(f"No table for {absent} under {root / 'Dataframes'}; there are {sorted(tables)}.")
    table = pd.concat([_read_city(root, city) for city in cities], ignore_index=True)
    heading = table["northdeg"].to_numpy(np.float64)
    columns = {
        "image_path": table["image_path"].tolist(),
        "place_id": [f"{city}/{place}" for city, place in zip(table["city"], table["place_id"])],
        "city": table["city"].tolist(),
        "lat_raw": table["lat"].tolist(),
        "lon_raw": table["lon"].tolist(),
        "lat": table["lat"].astype(float),
        "lon": table["lon"].astype(float),
        "pano_id": table["panoid"].tolist(),
        "heading_deg": heading % 360,
        "heading_raw": table["northdeg"].astype(str).tolist(),
        "timestamp": _month_starts(table["year"], table["month"]),
        "time_resolution": "month",
    }
    return build_manifest(root, name, "train", "train", columns, keep_order=True)


def _month_starts(years: pd.Series, months: pd.Series) -> np.ndarray:
    """µs since 1970, int64 (N,)."""
    since = (years.to_numpy(np.int64) - 1970) * 12 + months.to_numpy(np.int64) - 1
    return since.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)


def _read_city(root: Path, city: str) -> pd.DataFrame:
    path = root / "Dataframes" / f"{city}.csv"
    table = read_csv(path, COLUMNS, text=("lat", "lon", "panoid", "city_id"), numbers=WHOLE)
    for column in WHOLE:
        if (bad := (table[column] % 1 != 0) | ((column == "month") & ~table[column].between(1, 12))).any():
            row = int(bad.argmax())
            raise ValueError(f"{path}, line {row + 2}: {table[column][row]:g} is no {column}: expected a whole number.")
        table[column] = table[column].astype(np.int64)
    for column in ("lat", "lon"):
        if (bad := pd.to_numeric(table[column], errors="coerce").isna()).any():
            row = int(bad.argmax())
            raise ValueError(f"{path}, line {row + 2}: '{table[column][row]}' is no number ({column}).")
    name = [image_name(*row) for row in table[list(COLUMNS)].itertuples(index=False)]
    inside = table["city_id"].nunique() > 1
    cities = city + "/" + table["city_id"] if inside else city
    return table.assign(image_path=[f"Images/{city}/{file}" for file in name], city=cities)


def image_name(
    place_id: int, year: int, month: int, northdeg: int, city_id: str, lat: str, lon: str, panoid: str
) -> str:
    """File name of a row; lat and lon are text exactly as in the table, northdeg may exceed 360."""
    return f"{city_id}_{place_id:07d}_{year:04d}_{month:02d}_{northdeg:03d}_{lat}_{lon}_{panoid}.jpg"
