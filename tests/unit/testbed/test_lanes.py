# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make test` names each unstable test with its error and fails if there are more than two."""

from __future__ import annotations

import pytest
from lanes import MOST_UNSTABLE, Lanes, failures, report

PYTEST_LOG = """
=========================== short test summary info ============================
FAILED tests/integration/serves/test_serve.py::test_killed[0.15] - BrokenPipeError: [Errno 32] Broken pipe
ERROR tests/integration/site/test_site.py::test_site - OSError
=================== 1 failed, 12 passed, 1 error in 93.12s ===================
"""


def test_failed_tests_are_read_from_the_log_with_their_errors() -> None:
    assert failures(PYTEST_LOG, "test_serve") == [
        "tests/integration/serves/test_serve.py::test_killed[0.15] - BrokenPipeError: [Errno 32] Broken pipe",
        "tests/integration/site/test_site.py::test_site - OSError",
    ]


def test_a_failed_job_without_tests_is_reported_with_its_last_line() -> None:
    assert failures("converge\nCRITICAL exit 2\n", "site") == ["site - CRITICAL exit 2"]
    assert failures("", "site") == ["site - no output"]


@pytest.mark.parametrize(("unstable", "code"), [(0, 0), (MOST_UNSTABLE, 0), (MOST_UNSTABLE + 1, 1)])
def test_more_than_two_unstable_tests_fail_the_run(capsys: pytest.CaptureFixture[str], unstable: int, code: int) -> None:
    lanes = Lanes([], 1)
    lanes.unstable = [f"test_{number} - boom" for number in range(unstable)]
    assert report(lanes) == code
    printed = capsys.readouterr().err
    assert all(f"test_{number} - boom" in printed for number in range(unstable))
    assert ("failed: 3 unstable tests" in printed) == bool(code)


def test_a_job_that_failed_twice_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    lanes = Lanes([], 1)
    lanes.failed = ["site"]
    assert report(lanes) == 1
    assert capsys.readouterr().err == "failed: site\n"
