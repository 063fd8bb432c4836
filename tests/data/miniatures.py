"""Tiny data sets in the exact formats of the public ones; every function writes below `root` and returns it."""

import pickle

import numpy as np
from PIL import Image
from scipy.io import savemat

EAST, NORTH = 584_000.0, 4_476_000.0
HEADERS = {
    "seq_info": "key,sequence_key,frame_number",
    "subtask_index": "all,s2w,w2s,o2n,n2o,d2n,n2d",
    "postprocessed": "key,easting,northing,unique_cluster,control_panel,night,view_direction",
    "raw": "key,lon,lat,ca,captured_at,pano",
}


def touch_image(path, seed=0, size=(8, 6)):
    """A small JPEG or PNG, another one for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def cells(values):
    """A MATLAB cell column of strings."""
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def db_struct(path, database, queries, **fields):
    """A dbStruct file: `database` and `queries` are lists of (name, east, north). Further or other fields by keyword."""
    struct = {
        "whichSet": "test", "dbImageFns": cells([row[0] for row in database]),
        "utmDb": np.array([row[1:3] for row in database]).T, "qImageFns": cells([row[0] for row in queries]),
        "utmQ": np.array([row[1:3] for row in queries]).T, "numImages": len(database), "numQueries": len(queries),
        "posDistThr": 25.0, "posDistSqThr": 625.0, "nonTrivPosDistSqThr": 100.0,
    } | fields  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"dbStruct": {key: value for key, value in struct.items() if value is not None}})
    return path


def pittsburgh(root, name="pitts30k_test", **fields):
    """Three database panoramas 20 m apart with 24 crops each, and one query panorama at the first."""
    crops = [(pitch, yaw) for pitch in (1, 2) for yaw in range(1, 13)]
    database = [
        (f"00{pano}/00082{pano}_pitch{pitch}_yaw{yaw}.jpg", EAST + 20.0 * pano, NORTH)
        for pano in range(3) for pitch, yaw in crops
    ]  # fmt: skip
    queries = [(f"000/000821_pitch{pitch}_yaw{yaw}.jpg", EAST + 1.0, NORTH) for pitch, yaw in crops]
    db_struct(root / "datasets" / f"{name}.mat", database, queries, **fields)
    return root


def tokyo247(root, **fields):
    """Two panoramas of 12 crops at one position, one 30 m off, three queries. Names end in .jpg, the files in .png."""
    database = [
        (f"0381{pano}/38140{pano}/{'abcdefghijklmnopqrstu'}{pano}_012_{30 * crop:03d}.jpg", 381000.0 + 30.0 * (pano == 2), 3946000.0)
        for pano in range(3) for crop in range(12)
    ]  # fmt: skip
    queries = [(f"0000{n}.jpg", 381000.0 + 2.0 * n, 3946000.0) for n in range(3)]
    db_struct(root / "tokyo247.mat", database, queries, **fields)
    touch_image(root / "database_gsv_vga" / database[0][0].replace(".jpg", ".png"))
    touch_image(root / "247query_subset_v2" / "00000.jpg")
    return root


def tokyo_tm(root, split="train", **fields):
    """Two places; at the first one the database has the query's own time stamp and another one."""
    database = [("00/a/201001/x.jpg", 0.0, 0.0), ("00/a/201305/y.jpg", 0.0, 5.0), ("00/b/201305/z.jpg", 15.0, 0.0)]
    queries = [("00/a/201001/q.jpg", 1.0, 0.0)]
    times = dict(dbTimeStamp=cells(["201001", "201305", "201305"]), qTimeStamp=cells(["201001"])) | fields
    db_struct(root / f"tokyoTM_{split}.mat", database, queries, **times)
    return root


def msls_folder(folder, rows, lists=("seq_info", "subtask_index", "postprocessed", "raw")):
    """The tables of one city and role. A row is a dictionary; what it does not say is ordinary."""
    plain = dict(east=0.0, north=0.0, pano=False, all=True, s2w=False, night=False, view="Forward", panel=False, lat=55.68,
                 lon=12.57, run="seq1", frame=0)  # fmt: skip
    lines = {name: ["," + HEADERS[name]] for name in lists}
    for index, row in enumerate(plain | row for row in rows):
        values = {
            "seq_info": [row["key"], row["run"], row["frame"]],
            "subtask_index": [row["all"], row["s2w"], False, False, False, False, False],
            "postprocessed": [row["key"], row["east"], row["north"], 0, row["panel"], row["night"], row["view"]],
            "raw": [row["key"], row["lon"], row["lat"], 370.5, "2017-06-30", row["pano"]],
        }
        for name in lists:
            lines[name].append(",".join(map(str, [index, *values[name]])))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in lines.items():
        (folder / f"{name}.csv").write_text("\n".join(content) + "\n")
    return folder


def msls_val(root):
    """Two cities whose coordinates coincide. Scored: q1 (two positives), 1e5000 (one); q3 has none; q4 is outside the
    subtask, q5 a panorama."""
    cph = root / "train_val" / "cph"
    msls_folder(
        cph / "database",
        [dict(key="d1"), dict(key="-d2", east=20.0), dict(key="p0", pano=True), dict(key="d3", east=500.0)],
    )
    msls_folder(cph / "query", [
        dict(key="q1", night=True, view="Sideways"), dict(key="q3", east=250.0), dict(key="q4", all=False, panel=True),
        dict(key="q5", pano=True),
    ])  # fmt: skip
    sf = dict(lat=37.77, lon=-122.42)
    msls_folder(root / "train_val" / "sf" / "database", [dict(key="s1", **sf)])
    msls_folder(root / "train_val" / "sf" / "query", [dict(key="1e5000", east=3.0, **sf)])
    return root


def vpr_bench(root, rows, n_ref, n_query, files=True):
    """ref/, query/ and ground_truth_new.npy; `rows` are (query, list of references)."""
    for folder, count in (("ref", n_ref), ("query", n_query)):
        for index in range(count if files else 0):
            touch_image(root / folder / f"{index:07d}.jpg", index + 1000 * (folder == "query"))
    table = np.empty((len(rows), 2), object)
    for index, (query, references) in enumerate(rows):
        table[index] = [query, references]
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / "ground_truth_new.npy", table, allow_pickle=True)
    return root


def objects(rows):
    """An object array of one list per row, as NumPy saves ragged ground truth."""
    array = np.empty(len(rows), object)
    array[:] = [np.asarray(row, np.int64) for row in rows]
    return array


def frames(folder, numbers, suffix=".png"):
    """Empty files named like the frames of a season; readers do not open images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"images-{number:05d}{suffix}").touch()
    return folder


def at_names(folder, names):
    """Empty files with '@' names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def at_name(east, north, pano="", heading="", note="", zone="17", band="T"):
    return f"@{east:010.2f}@{north:010.2f}@{zone}@{band}@@@{pano}@@{heading}@@@@201708@{note}@.jpg"


RUNS = ("2014-11-14-16-34-33", "2014-11-18-13-20-12", "2014-12-02-15-30-08")
REGION = (5735712.768124, 620084.402381)  # northing, easting: P1 of PointNetVLAD


def oxford_locations(root, runs=RUNS, n=6):
    """Tables of locations: submap i of a run stands 20 m * i north of 100 m south of P1, so the last ones leave the square."""
    for number, run in enumerate(runs):
        for folder, step in (("20m", 20.0), ("20m_10overlap", 10.0)):
            lines = ["timestamp,northing,easting"]
            for i in range(n):
                north, east = REGION[0] + 90.0 + step * i + number, REGION[1]
                lines.append(f"{stamp(number, i)},{north!r},{east!r}")
                cloud = root / "oxford" / run / f"pointcloud_{folder}" / f"{stamp(number, i)}.bin"
                cloud.parent.mkdir(parents=True, exist_ok=True)
                cloud.write_bytes(np.zeros(4096 * 3).tobytes())
            (root / "oxford" / run / f"pointcloud_locations_{folder}.csv").write_text("\n".join(lines) + "\n")
    return root


def stamp(run, index):
    return 1415982873000000 + 10**9 * run + 10**6 * index


def lidar2image(path, runs=3, n=6, leave_out=()):
    nearest = {stamp(r, i): [stamp(r, i) + 7, stamp(r, i) - 90] for r in range(runs) for i in range(n)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({key: value for key, value in nearest.items() if key not in leave_out}))
    return path


DRIVES = ("boreas-2020-11-26-13-58", "boreas-2021-01-26-11-22", "boreas-2021-02-02-14-07")
BOREAS_EAST, BOREAS_NORTH, START = 623_400.0, 4_848_800.0, 1_606_417_097_000_000
POSES = "GPSTime,easting,northing,altitude,vel_east,vel_north,vel_up,roll,pitch,heading,angvel_z,angvel_y,angvel_x"


def write_drive(raw, number, frames=41, points=200):
    """10 Hz LiDAR, images 30 ms later, 2 m per frame due east; the last five frames have no pose."""
    folder, rng = raw / DRIVES[number], np.random.default_rng(number)
    stamps = [START + number * 10**9 + 100_000 * i for i in range(frames)]
    for name in ("lidar", "camera", "applanix"):
        (folder / name).mkdir(parents=True)
    for i, stamp in enumerate(stamps):
        rng.normal(0, 20, (points, 6)).astype("<f4").tofile(folder / f"lidar/{stamp}.bin")
        Image.new("RGB", (48, 40), (i, 0, 0)).save(folder / f"camera/{stamp + 30_000}.png")
    rows = [
        f"{stamp},{BOREAS_EAST + 2 * i},{BOREAS_NORTH + number},130" + ",0" * 9 for i, stamp in enumerate(stamps[:-5])
    ]
    (folder / "applanix/lidar_poses.csv").write_text("\n".join([POSES, *rows]) + "\n")
    return stamps
