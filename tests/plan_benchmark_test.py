"""experiments/benchmarks/plan.py in a tiny size."""

import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "benchmarks" / "plan.py"


@pytest.mark.slow
def test_prediction_and_measurement(run_script, tmp_path):
    done = run_script(
        SCRIPT, tmp_path, "--d_model=64", "--num_latents=2048", "--k=8", "--batch_tokens=512"
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["ms_best"] <= record["ms_expected"]
    assert record["flops_compiled"] == pytest.approx(2 * 512 * 2048 * 64, rel=0.05)
    # Noisy machines and small shapes: the right order is all that can be asked for.
    assert 0.1 < record["ratio"] < 10
    assert 0.3 < record["bytes_measured"] / record["bytes_predicted"] < 10
