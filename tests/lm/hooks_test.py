"""Names of hook points."""

import pytest

from saejax.errors import InputError
from saejax.lm import (
    check_hookpoint,
    expand_hookpoints,
    hook_width,
    hookpoints,
    layers_needed,
)
from saejax.lm.families import from_json


@pytest.fixture
def config(tiny):
    return from_json(tiny(num_hidden_layers=12), "config.json")


def test_hookpoints_are_the_names_that_sparsify_uses(config):
    names = hookpoints(config)
    assert names[:4] == ("embed_tokens", "layers.0", "layers.0.mlp", "layers.0.self_attn")
    assert names[4:6] == ("layers.0.input_layernorm", "layers.0.post_attention_layernorm")
    assert names[-3] == "layers.11.self_attn"
    assert len(names) == len(set(names)) == 1 + 5 * 12
    for name in names:
        check_hookpoint(config, name)
        assert hook_width(config, name) == 32


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("embed_tokens", 0),
        ("layers.0", 1),
        ("layers.6.mlp", 7),
        ("layers.6.post_attention_layernorm", 7),
        ("layers.11.self_attn", 12),
    ],
)
def test_layers_needed(config, name, layers):
    assert layers_needed(config, name) == layers


@pytest.mark.parametrize("name", ["layers.12", "layers.12.mlp", "layers.99999999999999999999"])
def test_a_layer_out_of_range_names_the_range(config, name):
    with pytest.raises(InputError, match=f"'{name}': this model has layers 0 to 11"):
        check_hookpoint(config, name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "mlp",
        "layers",
        "layers.",
        "layers.-1",
        "layers.06",
        "layers.6.",
        "layers.6.attn",
        "layers.6.mlp.down_proj",
        "model.layers.6.mlp",
        "h.6.mlp",
        "layers.6\n",
        "layers.\u0666",
    ],
)
def test_an_unknown_name_lists_what_exists(config, name):
    for function in (check_hookpoint, hook_width, layers_needed):
        with pytest.raises(InputError) as caught:
            function(config, name)
        message = str(caught.value)
        assert repr(name) in message
        assert "embed_tokens, layers.<i>, layers.<i>.mlp, layers.<i>.self_attn" in message
        assert "layers.<i>.input_layernorm, layers.<i>.post_attention_layernorm" in message
        assert "from 0 to 11" in message


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layers.6", ["layers.6"]),
        ("layers.*.mlp", [f"layers.{i}.mlp" for i in range(12)]),
        ("layers.[0-2]", ["layers.0", "layers.1", "layers.2"]),
        ("layers.1?.self_attn", ["layers.10.self_attn", "layers.11.self_attn"]),
        ("embed*", ["embed_tokens"]),
    ],
)
def test_patterns(config, pattern, expected):
    assert list(expand_hookpoints(config, pattern)) == expected


def test_a_star_matches_dots(config):
    assert expand_hookpoints(config, "layers.*") == hookpoints(config)[1:]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("h.*.mlp", r"'h\.\*\.mlp' matches nothing; this model has embed_tokens, layers\.<i>,"),
        ("layers.12", "layers 0 to 11"),
    ],
)
def test_patterns_that_match_nothing(config, pattern, words):
    with pytest.raises(InputError, match=words):
        expand_hookpoints(config, pattern)
