"""Numbers of a config.json, checked before anybody calculates with them; knows no family."""

from collections.abc import Mapping
from typing import Any

from worker.engine.errors import UnsupportedModelError

MAX_MEASUREMENT = 10_000_000
"""No measurement of a real model comes near it; guards arithmetic against a made-up config."""


def measurement(config: Mapping[str, Any], name: str, keys: tuple[str, ...]) -> int:
    """The first of several settings that a config.json has.

    Args:
        config: The content of config.json.
        name: What it is, for the refusal.
        keys: Where it may stand.

    Raises:
        UnsupportedModelError: It is missing or impossible.
    """
    for key in keys:
        if key in config:
            return _checked(config[key], key)
    raise UnsupportedModelError(
        f"config.json does not say {name} (looked for {' or '.join(keys)}). The file is damaged."
    )


def optional(config: Mapping[str, Any], key: str, default: int) -> int:
    """A setting, or what holds where a config.json leaves it out.

    Raises:
        UnsupportedModelError: It is impossible.
    """
    return default if config.get(key) is None else _checked(config[key], key)


def feed_forward(config: Mapping[str, Any], hidden_size: int) -> int:
    """Width of the feed-forward block, of all active experts together.

    Raises:
        UnsupportedModelError: It is impossible.
    """
    experts = config.get("num_experts_per_tok")
    expert_size = config.get("moe_intermediate_size")
    if isinstance(experts, int) and isinstance(expert_size, int):
        return _checked(experts * expert_size, "moe_intermediate_size")
    for key in ("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "d_ff"):
        if config.get(key) is not None:
            return _checked(config[key], key)
    return 4 * hidden_size


def _checked(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_MEASUREMENT:
        raise UnsupportedModelError(f"{key} in config.json is {value!r}; expected a whole number above 0.")
    return value
