"""A ground truth that counts images finds them by the number in their name, whatever was lost or lies beside."""

import numpy as np
import pytest
from pictures import picture
from PIL import Image

from vpr_lib.data.readers.folders import read_folders
from vpr_lib.data.readers.numbers import numbered
from vpr_lib.data.readers.vpr_bench import read_vpr_bench
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.folders import retrieve_folders
from vpr_lib.retrieval.protocol import evaluate

PLACES = 12
STYLES = {
    "seven digits": "{:07d}.png", "no zeros": "{}.png", "word": "frame_{}.png", "capitals": "Image{:03d}.PNG",
    "two numbers": "2019_run3_{}_left.png", "folder": "seq1/{}.png", "spaces": "img ({}).png", "from one": "{}.png",
}  # fmt: skip


def vpr_bench(root, style, lose=(), first=0):
    """Query q shows place 5 q mod 12, which is reference 5 q mod 12."""
    truth = np.empty((PLACES, 2), object)
    for number in range(PLACES):
        shown = {"ref": number, "query": 5 * number % PLACES}
        truth[number, 0], truth[number, 1] = number, [shown["query"]]
        for side, place in shown.items():
            path = root / side / STYLES[style].format(number + first)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(place)).save(path)
    np.save(root / "ground_truth_new.npy", truth, allow_pickle=True)
    for side, number in lose:
        (root / side / STYLES[style].format(number + first)).unlink()
    return root


def both_recalls(root):
    model, folders = build_model("pixels"), (root / "ref", root / "query")
    benchmark = read_folders(*folders, matches=root / "ground_truth_new.npy")
    found = retrieve_folders(model, benchmark, 5, None)
    return found.recall[1], evaluate(model, read_vpr_bench(root), None, (1,), quiet=True).recall[1]


@pytest.mark.parametrize("style", STYLES)
def test_every_way_to_number(tmp_path, style):
    root = vpr_bench(tmp_path, style, first=int(style == "from one"))
    assert both_recalls(root) == (1.0, 1.0)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("lost", [0, 5])
def test_a_lost_reference_shifts_nothing(tmp_path, style, lost, caplog):
    root = vpr_bench(tmp_path, style, [("ref", lost)], first=int(style == "from one"))
    found = retrieve_folders(
        build_model("pixels"),
        read_folders(root / "ref", root / "query", matches=root / "ground_truth_new.npy"),
        5,
        None,
    )
    assert found.recall[1] == pytest.approx(11 / 12) and len(found.left_out) == 1
    assert "1 images are missing, the first is number" in caplog.text
    with pytest.raises(ValueError, match=r"1 of 12 images(.|\n)*no such file"):
        evaluate(build_model("pixels"), read_vpr_bench(root), quiet=True)


@pytest.mark.parametrize("lost", [0, 5])
def test_a_lost_query_shifts_nothing(tmp_path, lost):
    root = vpr_bench(tmp_path, "no zeros", [("query", lost)])
    found = retrieve_folders(
        build_model("pixels"),
        read_folders(root / "ref", root / "query", matches=root / "ground_truth_new.npy"),
        5,
        None,
    )
    assert found.recall[1] == 1 and len(found.benchmark.queries) == 11


def stepped(root, reference, query="{:07d}.png", lose=()):
    """Like `vpr_bench`, the references named by a function of their number."""
    root = vpr_bench(root, "seven digits")
    for number in range(PLACES):
        for side, named in (("ref", reference), ("query", query)):
            place = root / side / (named.format(number) if isinstance(named, str) else named(number))
            place.parent.mkdir(exist_ok=True)
            (root / side / f"{number:07d}.png").rename(place)
            if (side, number) in lose:
                place.unlink()
    return root


STEPS = {"every tenth": lambda n: f"{10 * n}.png", "every second": lambda n: f"{2 * n}.png", "later": lambda n: f"{500 + n}.png",
         "later, every fifth": lambda n: f"f{1000 + 5 * n:05d}.png"}  # fmt: skip


@pytest.mark.parametrize("style", STEPS)
def test_numbers_that_rise_by_a_step_or_begin_later(tmp_path, style, caplog):
    assert both_recalls(stepped(tmp_path / "whole", STEPS[style], STEPS[style])) == (1.0, 1.0)
    assert both_recalls(stepped(tmp_path / "mixed", "{}.png", STEPS[style])) == (1.0, 1.0)
    assert "missing" not in caplog.text and "skip" not in caplog.text
    root = stepped(tmp_path / "lost", STEPS[style], lose=[("ref", 5)])
    folders = read_folders(root / "ref", root / "query", matches=root / "ground_truth_new.npy")
    found = retrieve_folders(build_model("pixels"), folders, 5, None)
    assert found.recall[1] == pytest.approx(11 / 12) and len(found.left_out) == 1
    root = stepped(tmp_path / "asked", "{}.png", STEPS[style], lose=[("query", 4)])
    folders = read_folders(root / "ref", root / "query", matches=root / "ground_truth_new.npy")
    assert retrieve_folders(build_model("pixels"), folders, 5, None).recall[1] == 1


UNKNOWN = {"stamps": lambda n: f"{1418133720878894 + 62500 * n + n * n * 7 % 913}.png",
           "words": lambda n: f"{'abcdefghijkl'[n]}street.png", "from one": lambda n: f"Image ({n + 1}).png"}  # fmt: skip


@pytest.mark.parametrize("style", UNKNOWN)
def test_names_that_do_not_tell_which_reference_is_lost_are_refused(tmp_path, style):
    assert both_recalls(stepped(tmp_path / "whole", UNKNOWN[style])) == (1.0, 1.0)
    for lost in (0, 11) if style == "from one" else (0, 5, 11):  # a gap between numbers would tell
        root = stepped(tmp_path / f"lost {lost}", UNKNOWN[style], lose=[("ref", lost)])
        with pytest.raises(
            ValueError, match=r"holds 11 images.*refers to 12.*do not tell whether the first is missing"
        ):
            both_recalls(root)


def test_one_side_from_one_and_the_other_from_zero(tmp_path):
    with pytest.raises(ValueError, match=r"from '1.png' to '12.png'.*do not tell whether the first is missing"):
        both_recalls(stepped(tmp_path, lambda n: f"{n + 1}.png", "{}.png"))


@pytest.mark.parametrize("named", [lambda n: f"frame_{n}_t{97 + 37 * n}.png", lambda n: f"seq{n // 6}/{n % 6 + 5}.png"])
def test_an_order_that_depends_on_who_sorts_is_refused(tmp_path, named):
    with pytest.raises(ValueError, match=r"1\d.*comes before.*as text, after it as a number"):
        both_recalls(stepped(tmp_path, named))


def test_numbers_that_skip_some_are_said(tmp_path, caplog):
    assert both_recalls(stepped(tmp_path, lambda n: f"{1000 + n + (n > 4)}.png")) == (1.0, 1.0)
    assert "skip 1 between 1000 and 1012" in caplog.text


def test_images_lost_at_the_end(tmp_path):
    root = vpr_bench(tmp_path, "no zeros", [("ref", 11)])
    assert both_recalls(root) == (pytest.approx(11 / 12), pytest.approx(11 / 12))
    root = vpr_bench(tmp_path / "b", "no zeros", [("query", 11)])
    with pytest.raises(ValueError, match="row for query 11, but the 11 images"):
        both_recalls(root)


@pytest.mark.parametrize("stranger", ["cover.png", "3 (copy).png", "x/3.png", "thumb_3.png"])
def test_strangers_are_refused(tmp_path, stranger):
    root = vpr_bench(tmp_path, "no zeros")
    path = root / "ref" / stranger
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture(1)).save(path)
    with pytest.raises(ValueError, match="1 of 13 names do not follow the others"):
        both_recalls(root)


@pytest.mark.parametrize("twin", ["3.jpg", "03.png"])
def test_one_number_twice_is_refused(tmp_path, twin):
    root = vpr_bench(tmp_path, "no zeros")
    Image.fromarray(picture(1)).save(root / "query" / twin)
    with pytest.raises(ValueError, match=r"are both number 3"):
        both_recalls(root)


def test_time_stamps_and_words_are_only_ordered(tmp_path):
    stamps = ["9.9e1.png", "1415982873000009.jpg", "1415982873000000.jpg"]
    assert numbered(stamps[1:], tmp_path) == stamps[:0:-1]
    assert numbered(["b.png", "a.png"], tmp_path) == ["b.png", "a.png"] and numbered([], tmp_path) == []
    assert numbered(["999999.png", "1000001.png", "1000000.png"], tmp_path) == [
        "999999.png",
        "1000000.png",
        "1000001.png",
    ]
    assert numbered(["0000001.png"], tmp_path) == ["0000000.png", "0000001.png"]
    assert numbered(["1.png", "3.png"], tmp_path) == ["1.png", "2.png", "3.png"]


def test_a_ground_truth_of_names_is_explained(tmp_path):
    root = vpr_bench(tmp_path, "no zeros")
    truth = np.array([[f"{q}.png", [f"{q}.png"]] for q in range(PLACES)], object)
    np.save(root / "ground_truth_new.npy", truth, allow_pickle=True)
    with pytest.raises(ValueError, match=r"the rows name files \('0\.png'\), expected numbers"):
        read_vpr_bench(root)
