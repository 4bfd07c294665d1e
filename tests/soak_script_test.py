"""`experiments/soak.py` on a tiny model: killed twice, it ends with the same weights."""

import json
from pathlib import Path

import pytest

from saejax.config_json import to_json

SCRIPT = Path(__file__).parents[1] / "experiments" / "soak.py"


@pytest.fixture
def config_file(cfg, tmp_path):
    cfg.data.epochs = 400
    (tmp_path / "config.json").write_text(to_json(cfg))
    file = tmp_path / "config.py"
    file.write_text(
        "from saejax.config_json import from_json\n"
        f"def get_config():\n    return from_json(open({str(tmp_path / 'config.json')!r}).read())\n"
    )
    return file


@pytest.mark.slow
def test_killed_twice(config_file, tmp_path, run_script):
    """The first kill comes while Python still imports, the second at a time that chance decides."""
    done = run_script(
        SCRIPT,
        tmp_path,
        f"--config={config_file}",
        f"--workdir={tmp_path / 'soak'}",
        "--kills=2",
        "--mean_seconds=10",
        "--sample_seconds=0.2",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert record["equal"]
    assert len(record["kills"]) == 2
    assert set(record["growth"]) == {"rss_bytes", "files", "threads"}
    assert "byte for byte" in done.stdout
    assert (tmp_path / "soak" / "figures" / "soak.svg").exists()


def test_folders_of_earlier_ones_are_kept(config_file, tmp_path, run_script):
    (tmp_path / "soak" / "killed").mkdir(parents=True)
    done = run_script(SCRIPT, tmp_path, f"--config={config_file}", f"--workdir={tmp_path / 'soak'}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "killed exists" in done.stderr
