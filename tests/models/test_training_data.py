import numpy as np

from firmware_sim.synthesis import ACTIVITIES
from models.training_data import confusion, labelled_windows


def test_windows_of_each_activity_with_its_label():
    data = labelled_windows([1, 2], seed=1, segments=2)
    assert data.windows.shape == (2 * 11 * 2 * 9, 200, 6)  # 20 s hold nine windows
    assert np.bincount(data.labels).tolist() == [2 * 2 * 9] * 11
    assert data.counts() == dict.fromkeys(ACTIVITIES, 2 * 2 * 9)
    standing = data.windows[data.labels == ACTIVITIES.index("standing")]
    assert (standing[:, :, 0].mean(axis=1) < -6).all()  # the hand hangs


def test_the_same_seed_gives_the_same_windows():
    first, again, other = (labelled_windows([1], seed=s, segments=1).windows for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_confusion_has_the_truth_in_its_rows():
    counts = confusion(np.array([0, 0, 3]), np.array([0, 2, 3]))
    assert counts.shape == (11, 11)
    assert (counts[0, 0], counts[0, 2], counts[3, 3], counts.sum()) == (1, 1, 1, 3)
