import numpy as np
import pytest
import torch
from pictures import write_picture

from vpr_lib.data.images import ImageError, InputSpec
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.places import PlaceBatches, Places, PlaceSampler


def places(tmp_path, sizes=(5, 4, 6, 4, 4), cities="AABBB", **options):
    ids = [f"{cities[p]}/{p}" for p, n in enumerate(sizes) for _ in range(n)]
    columns = {
        "image_path": [f"{i}.png" for i in range(len(ids))], "place_id": ids, "city": [i[0] for i in ids],
        "timestamp": np.arange(len(ids)), "lat": np.zeros(len(ids)),
    }  # fmt: skip
    return Places.from_manifest(build_manifest(tmp_path, "s", "train", "train", columns, keep_order=True), **options)


def test_places_with_too_few_images_are_left_out(tmp_path):
    found = places(tmp_path, sizes=(5, 3, 6, 1, 4))
    assert len(found) == 3 and len(found.labels) == 15
    with pytest.raises(ValueError, match="None of the 5 places"):
        places(tmp_path, min_images=9)


def test_a_batch_holds_p_places_with_m_distinct_images(tmp_path):
    found = places(tmp_path)
    for batch in PlaceSampler(found, 2, 4, seed=3).epoch(0):
        labels = found.labels[batch]
        assert (labels == labels[:, :1]).all() and len(set(labels[:, 0])) == len(labels)
        assert all(len(set(row)) == 4 for row in batch)


def test_every_place_once_per_epoch_and_epochs_differ(tmp_path):
    found = places(tmp_path)
    sampler = PlaceSampler(found, 2, 4)
    epochs = [np.concatenate(list(sampler.epoch(e))) for e in range(6)]
    assert all(sorted(found.labels[e[:, 0]]) == [0, 1, 2, 3, 4] for e in epochs)
    assert len({e.tobytes() for e in epochs}) == 6
    assert (np.concatenate(list(sampler.epoch(2))) == epochs[2]).all()


def test_in_city_order_keeps_cities_together_and_in_order(tmp_path):
    found = places(tmp_path, cities="ABABA")
    for epoch in range(5):
        visited = found.groups[np.concatenate(list(PlaceSampler(found, 2, 4).epoch(epoch)))[:, 0]]
        assert visited.tolist() == sorted(visited.tolist())
    mixed = [
        tuple(found.groups[np.concatenate(list(PlaceSampler(found, 2, 4, order="shuffled").epoch(e)))[:, 0]])
        for e in range(9)
    ]
    assert any(list(m) != sorted(m) for m in mixed)


@pytest.mark.parametrize("order", ["in_city", "shuffled"])
def test_places_meet_others_in_every_epoch(tmp_path, order):
    found = places(tmp_path, sizes=(4,) * 12, cities="A" * 12)
    visits = lambda **more: [
        tuple(found.labels[np.concatenate(list(PlaceSampler(found, 3, 4, order=order, **more).epoch(e)))[:, 0]])
        for e in range(5)
    ]
    assert len(set(visits())) == 5 and tuple(range(12)) not in visits()
    assert len(set(visits(fixed_order=True))) == 1 and visits(fixed_order=True)[0] == visits()[0] != tuple(range(12))
    assert visits() != visits(seed=2)


def test_newest_images(tmp_path):
    found = places(tmp_path)
    for row in np.concatenate(list(PlaceSampler(found, 5, 2, images="newest").epoch(0))):
        mine = np.flatnonzero(found.labels == found.labels[row[0]])
        assert row.tolist() == mine[::-1][:2].tolist()


def test_two_ranks_share_the_global_batch(tmp_path):
    found = places(tmp_path)
    whole = [b.tolist() for b in PlaceSampler(found, 4, 4).epoch(1)][:1]
    parts = [next(iter(PlaceSampler(found, 2, 4, rank=r, world_size=2).epoch(1))).tolist() for r in range(2)]
    assert parts[0] + parts[1] == whole[0]
    assert len(PlaceSampler(found, 2, 4, world_size=2)) == 1 and len(PlaceSampler(found, 2, 4)) == 3
    with pytest.raises(ValueError, match="2 processes with 3 places each need 6 places, there are 5"):
        PlaceSampler(found, 3, 4, world_size=2)


def test_more_images_than_a_place_has(tmp_path):
    with pytest.raises(ValueError, match="a place has only 4"):
        PlaceSampler(places(tmp_path), 2, 5)


def test_batches_are_the_same_from_any_start_and_with_workers(tmp_path):
    found = places(tmp_path)
    for index in range(len(found.labels)):
        write_picture(tmp_path / f"{index}.png", index)
    noise = lambda image: torch.randint_like(image, 256)
    sampler = PlaceSampler(found, 2, 4, seed=5)
    whole = list(PlaceBatches(sampler, InputSpec((8, 8)), noise).epoch(1))
    assert [images.shape[0] for images, _ in whole] == [8, 8, 4]
    for other in (
        PlaceBatches(sampler, InputSpec((8, 8)), noise, keep=True),
        PlaceBatches(sampler, InputSpec((8, 8)), noise, workers=1),
    ):
        for (images, labels), (images2, labels2) in zip(whole[1:], other.epoch(1, start=1)):
            assert torch.equal(images, images2) and torch.equal(labels, labels2)


def test_training_refuses_damaged_images(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        list(PlaceBatches(PlaceSampler(places(tmp_path), 2, 4), InputSpec((8, 8))).epoch(0))


def test_fewer_places_are_part_of_more_and_the_same_under_every_seed(tmp_path):
    found, used = places(tmp_path, sizes=(4,) * 20, cities="A" * 20), {}
    for use, seed in ((5, 1), (5, 2), (12, 1)):
        sampler = PlaceSampler(found, 4, 4, seed, "shuffled", use=use)
        rows = np.concatenate([batch.ravel() for batch in sampler.epoch(0)])
        used[use, seed] = set(found.labels[rows])
        assert len(used[use, seed]) == use and len(sampler) == -(-use // 4)
    assert used[5, 1] == used[5, 2] and used[5, 1] < used[12, 1]
    with pytest.raises(ValueError, match="30 places asked for, there are 20"):
        PlaceSampler(found, 4, 4, use=30)
