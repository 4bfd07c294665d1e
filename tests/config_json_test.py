"""JSON of configurations: round trips, clear errors, differences."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saejax.config import Config
from saejax.config_json import differences, from_json, to_json
from saejax.errors import InputError


@given(
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, unique=True),
    k=st.integers(1, 99),
    lr_scale=st.floats(1e-3, 1e3),
    source=st.text(),
)
def test_json_round_trip(seeds, k, lr_scale, source):
    cfg = Config(init_seeds=tuple(seeds))
    cfg.sae.k, cfg.train.lr_scale, cfg.data.source = k, lr_scale, source
    cfg.sae.prefixes = (1, k)
    assert from_json(to_json(cfg)) == cfg


def test_json_of_another_version_names_the_fields():
    values = json.loads(to_json(Config()))
    values["sae"]["kk"] = values["sae"].pop("k")
    with pytest.raises(InputError, match=r"sae\.k, sae\.kk"):
        from_json(json.dumps(values))
    with pytest.raises(InputError, match="not valid JSON"):
        from_json("{")


def test_differences_are_the_changed_paths():
    changed = Config()
    changed.sae.k = 8
    assert differences(Config(), Config()) == []
    assert differences(Config(), changed) == ["sae.k: 32 != 8"]
