"""Devices, threads, memory."""

from __future__ import annotations

import threading

import numpy as np
import psutil
import pytest
import torch

from moditalker.errors import UserError
from moditalker.jobs.machine import check_device, half_the_threads, peak_rss


def test_a_device_that_is_not_there_gets_its_sentence():
    check_device("cpu")
    with pytest.raises(UserError, match="device 'tpu' is not available here; there is cpu"):
        check_device("tpu")


@pytest.mark.parametrize(("all_of_them", "half"), [(1, 1), (2, 1), (4, 2)])
def test_half_the_threads_until_it_is_over(all_of_them, half):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(all_of_them)
        with half_the_threads():
            assert torch.get_num_threads() == half
        assert torch.get_num_threads() == all_of_them
    finally:
        torch.set_num_threads(before)


def test_half_the_threads_of_blocks_that_end_in_any_order():
    before = torch.get_num_threads()

    def inside(entered, leave, told):
        with half_the_threads():
            entered.set()
            leave.wait()
        told.append(torch.get_num_threads())

    try:
        torch.set_num_threads(4)
        told, doors = [], [(threading.Event(), threading.Event()) for _ in range(2)]
        threads = [threading.Thread(target=inside, args=(*door, told)) for door in doors]
        for thread, (entered, _) in zip(threads, doors, strict=True):  # both are in before one leaves
            thread.start()
            entered.wait()
        for thread, (_, leave) in zip(threads, doors, strict=True):
            leave.set()
            thread.join()
        assert told == [4, 4]
        one, other = half_the_threads(), half_the_threads()
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        assert torch.get_num_threads() == 2
        other.__exit__(None, None, None)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_peak_memory_is_in_bytes_and_sees_what_was_held():
    before = peak_rss()
    block = np.ones(psutil.Process().memory_info().rss // 4 + (200 << 20), np.uint8)
    del block
    assert peak_rss() >= before
    assert peak_rss() >= psutil.Process().memory_info().rss
    assert peak_rss() > 200 << 20
