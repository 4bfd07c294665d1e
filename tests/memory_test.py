"""Peaks of memory that was taken and given back."""

import numpy as np

from saejax.memory import PeakMemory


def test_the_peak_counts_what_is_given_back_and_not_what_came_before():
    before = np.ones(40 * 2**20, np.uint8)
    memory = PeakMemory()
    taken = np.ones(100 * 2**20, np.uint8)
    del taken
    peak = memory.host_bytes()
    assert 90 * 2**20 < peak < 130 * 2**20
    again = PeakMemory()
    assert again.host_bytes() < 20 * 2**20
    assert again.device_bytes() == 0
    assert before[-1] == 1
