"""Many runs in one process leave nothing behind: memory, open files and threads stay as they are."""

import pytest
from soak import growth, soak

RUNS = 200
KIBIBYTES = 60  # per run: what the noise of 100 readings may amount to; a kept network or dataset is more


@pytest.mark.faults
def test_runs_leave_nothing_behind():
    found = list(soak(RUNS))
    half = found[RUNS // 2 :]
    assert len({one.files for one in half}) == 1
    assert len({one.threads for one in half}) == 1
    for name in ("rss", "uss", "figures"):
        assert 1024 * growth([getattr(one, name) for one in found]) < KIBIBYTES, name
