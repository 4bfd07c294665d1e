"""Eight fake CPU devices, strict ranks, repeatable hypothesis, no skipped parity tests in CI."""

import os

# Read when JAX is imported and when its CPU client starts, so before the imports below. What
# the user has set wins, as in `JAX_PLATFORMS=cuda make test`; of a repeated flag, the last counts.
os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}".strip()
)

from collections.abc import Generator
from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a test compiles, which no deadline survives.
hypothesis.settings.register_profile(
    "saejax", deadline=None, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.load_profile("saejax")


def _must_run(path: Path | None) -> bool:
    """Is this a parity test, where the packages it compares with have to be there?"""
    required = os.environ.get("SAEJAX_REQUIRE_PEERS") == "1"
    return required and path is not None and path.name.endswith("_peers_test.py")


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"SAEJAX_REQUIRE_PEERS=1, but this parity test did not run: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A parity test that skips itself has failed, where SAEJAX_REQUIRE_PEERS=1."""
    report = yield
    if _must_run(item.path):
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """So has a file of them that skips as a whole, as with `pytest.importorskip` at its top."""
    report = yield
    if _must_run(getattr(collector, "path", None)):
        _fail_if_skipped(report)
    return report
