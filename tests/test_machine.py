"""Devices, threads, memory."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from moditalker.errors import UserError
from moditalker.jobs.machine import calm, check_device, half_the_threads, one_thread, peak_rss
from moditalker.jobs.streams import ahead


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


def test_stages_run_with_the_threads_that_torch_was_told():
    """A new thread's OpenMP takes all processors until it is told; the streams' threads are."""
    maps = Path("/proc/self/maps")
    found = re.search(r"\S*libgomp\S*", maps.read_text()) if maps.exists() else None
    if found is None:
        pytest.skip("no libgomp here")
    openmp = ctypes.CDLL(found[0])
    with half_the_threads():
        told = list(ahead((openmp.omp_get_max_threads() for _ in range(2)), 1))
        assert told == [torch.get_num_threads()] * 2


def test_one_policy_for_threads_of_commands_and_workers(monkeypatch):
    names = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    for share, theirs, expected in (
        (None, {}, ["PASSIVE", None, "1", None]),
        (None, {"OPENBLAS_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, ["PASSIVE", "5", "3", None]),
        (2, {}, ["PASSIVE", "2", "1", "2"]),
        (2, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "3"}, ["PASSIVE", "1", "1", "1"]),
        (2, {"OMP_NUM_THREADS": "0", "OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", "2", "1", "2"]),
    ):
        monkeypatch.setattr(os, "environ", dict(theirs))
        calm(share)
        assert [os.environ.get(name) for name in names] == expected


def test_one_thread_holds_for_threads_that_begin_later():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with ThreadPoolExecutor(1, initializer=one_thread) as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
    finally:
        torch.set_num_threads(before)


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise():
    code = """
import os
from moditalker.cli import main
try:
    main(["--help"])
finally:
    print(os.environ["OMP_WAIT_POLICY"])
"""
    for theirs, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"} | theirs
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert run.stdout.strip().endswith(expected), run.stderr
