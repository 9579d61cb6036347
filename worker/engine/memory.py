"""How much memory training and serving will take, from a model's measurements alone; knows no torch.

The estimate counts what must stand in memory at once: the frozen weights, the activations kept for the backward pass,
the logits, and the prefix with its gradient and AdamW's two moments. `TRAINING_OVERHEAD` and `PROCESS_BYTES` stand for
what cannot be counted so: the libraries, the allocator's slack and short-lived buffers.

Against the measured peak of six trainings with plain transformers on the CPU (Llama of 12 layers and 576 wide, GPT-2 of
6 layers; 2 to 16 rows of 128 or 512 tokens; fp32 and bf16) the estimate was 0.98 to 1.34 times as high.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from worker.engine.families import Geometry
from worker.engine.quantisation import BITS_PER_WEIGHT
from worker.engine.recipe import Recipe

Fit = Literal["fits", "tight", "will not fit"]

BYTES_PER_NUMBER = {"float32": 4, "bfloat16": 2, "float16": 2}
TABLES_IN_WHOLE = 2
"""Tables of the vocabulary that quantisation leaves as they are: input vectors and, counted for all, the head's own."""

PROCESS_BYTES = 600_000_000
"""Memory of a process with torch and transformers imported and nothing loaded."""

TRAINING_OVERHEAD = 1.15
TIGHT_SHARE = 0.8
"""Above this share of what is free, the badge says tight."""

STATES_OF_TRAINED, STATES_OF_PREFIX = 4, 3
"""What a checkpoint holds of each number that is trained (itself, two moments, the running average), and of each of the
prefix (the best state, and with Muon the start and how far it spreads)."""

CHECKPOINTS_AT_ONCE = 3
"""Two are kept, and a third is written before the older of them goes."""

MOST_SNAPSHOTS = 32
"""Prefixes of evaluations that are kept of one training, see `storage.snapshots`."""

CGROUP = Path("/sys/fs/cgroup")

KEPT_PER_HIDDEN = 10
KEPT_PER_FEED_FORWARD = 4
LOGIT_COPIES = 3
"""Logits are needed in the model's format, in fp32 for the loss, and as their gradient."""

MOST_TOKENS_AT_ONCE = 2048
"""What a step needs at most at once, unless one row alone is longer: see `token_budget`, which takes more only where
there is more."""

MLP_WIDTHS = (256, 512)
"""Input and least hidden width of the network of the MLP reparameterisation, see `mlp`."""

BYTES_PER_TOKEN = 4
"""Rough length of a token in UTF-8 text, for estimates alone."""

MOST_LOGITS_AT_ONCE = 1 << 27
"""See `cross_entropy.CHUNK_NUMBERS`."""


@dataclass(frozen=True)
class Workload:
    """What a training step holds.

    Attributes:
        num_virtual_tokens: Length P of the prefix in tokens.
        batch_size: Rows of an update; computed in parts where they have many tokens.
        row_tokens: Tokens of a row, prompt and target.
        target_tokens: Tokens of a row that the loss counts, so that logits are computed for them alone.
        num_slots: Prefixes trained at once.
        is_network: Whether a network is trained whose output is the prefix (the MLP reparameterisation).
    """

    num_virtual_tokens: int = 32
    batch_size: int = 16
    row_tokens: int = 128
    target_tokens: int = 64
    num_slots: int = 1
    is_network: bool = False

    @property
    def pass_tokens(self) -> int:
        """Tokens of one step, of all slots together."""
        return self.num_slots * self.batch_size * self.row_tokens


def workload_of(recipe: Recipe, geometry: Geometry, row_tokens: int) -> Workload:
    """What a recipe makes of a step.

    Args:
        recipe: With every field set.
        geometry: Measurements of the base.
        row_tokens: About how many tokens a row has; answers are taken for half of it.
    """
    row_tokens = min(row_tokens, geometry.context_length)
    return Workload(
        num_virtual_tokens=recipe.num_virtual_tokens or 0,
        batch_size=recipe.batch_size or 0,
        row_tokens=row_tokens,
        target_tokens=row_tokens // 2,
        num_slots=max(len(recipe.sweep), 1),
        is_network=recipe.reparameterisation == "mlp",
    )


def row_tokens_of(size_bytes: int, num_rows: int) -> int:
    """About how many tokens a row of a table has."""
    return max(8, size_bytes // max(1, num_rows) // BYTES_PER_TOKEN)


def estimate_training_bytes(
    geometry: Geometry,
    num_parameters: int,
    workload: Workload,
    *,
    dtype: str = "float32",
    method: str = "prefix-tuning",
    precision: str = "auto",
) -> int:
    """Memory of a training in bytes.

    Args:
        geometry: Measurements of the base.
        num_parameters: Its stored numbers.
        workload: What a step holds.
        dtype: Number format that the frozen base computes in.
        method: `prefix-tuning` or `prompt-tuning`.
        precision: Of the recipe; int8 and int4 hold the linear layers in as many bits.
    """
    width = BYTES_PER_NUMBER[dtype]
    positions = workload.row_tokens + (workload.num_virtual_tokens if method == "prompt-tuning" else 0)
    rows = min(workload.batch_size, max(MOST_TOKENS_AT_ONCE // positions, 1))
    tokens = rows * positions
    per_token = KEPT_PER_HIDDEN * geometry.hidden_size + KEPT_PER_FEED_FORWARD * geometry.intermediate_size
    activations = tokens * (geometry.num_layers + geometry.num_encoder_layers) * per_token * width
    keys_and_values = geometry.num_attentions * 2 * geometry.num_kv_heads * geometry.head_dim
    # Each row's keys and values stand behind the prefix's in one tensor of every layer.
    joined = rows * (positions + workload.num_virtual_tokens) * keys_and_values * width
    attention = tokens * (positions + workload.num_virtual_tokens) * geometry.num_heads * width
    logits = min(rows * workload.target_tokens * geometry.vocab_size, MOST_LOGITS_AT_ONCE) * 4 * LOGIT_COPIES
    # fp32 master, gradient and two moments of AdamW of what is trained, and the best prefix so far.
    numbers = geometry.prefix_parameters(method, workload.num_virtual_tokens)
    prefix = 4 * workload.num_slots * (4 * _trained_numbers(workload, numbers) + numbers)
    weights = _weight_bytes(geometry, num_parameters, width, precision)
    counted = weights + activations + joined + attention + logits + prefix
    return PROCESS_BYTES + int(TRAINING_OVERHEAD * counted)


def estimate_serving_bytes(
    geometry: Geometry,
    num_parameters: int,
    *,
    tokens: int = 1024,
    rows: int = 4,
    dtype: str = "float32",
    precision: str = "auto",
) -> int:
    """Memory of answering, in bytes: the weights, and keys and values of all rows.

    Args:
        geometry: Measurements of the base.
        num_parameters: Its stored numbers.
        tokens: Tokens of a row, prefix and answer included.
        rows: Rows answered in one batch.
        dtype: Number format that the base computes in.
        precision: int8 and int4 hold its linear layers in as many bits.
    """
    width = BYTES_PER_NUMBER[dtype]
    cache = rows * tokens * geometry.num_attentions * 2 * geometry.num_kv_heads * geometry.head_dim * width
    logits = rows * geometry.vocab_size * 4
    return PROCESS_BYTES + _weight_bytes(geometry, num_parameters, width, precision) + cache + logits


def estimate_disk_bytes(geometry: Geometry, recipe: Recipe) -> int:
    """Room that a training takes on the disk at once: checkpoints, the prefixes of its evaluations, the one at its end.

    Args:
        geometry: Measurements of the base.
        recipe: With every field set.
    """
    workload = workload_of(recipe, geometry, row_tokens=1)
    numbers = geometry.prefix_parameters(recipe.method, workload.num_virtual_tokens)
    state = workload.num_slots * (STATES_OF_TRAINED * _trained_numbers(workload, numbers) + STATES_OF_PREFIX * numbers)
    num_looks = (recipe.max_steps or 0) // max(recipe.eval_every or 1, 1) + workload.num_slots + 1
    snapshots = BYTES_PER_NUMBER["float16"] * numbers * min(num_looks, MOST_SNAPSHOTS)
    published = 2 * BYTES_PER_NUMBER["float32"] * numbers  # it is copied into the store
    return CHECKPOINTS_AT_ONCE * BYTES_PER_NUMBER["float32"] * state + snapshots + published


def fit(estimate_bytes: int, available_bytes: int) -> Fit:
    """The badge: whether an estimate fits into what is free.

    Args:
        estimate_bytes: What will be needed.
        available_bytes: What is free on the machine, or on its accelerator.
    """
    if estimate_bytes > available_bytes:
        return "will not fit"
    return "tight" if estimate_bytes > TIGHT_SHARE * available_bytes else "fits"


def available_memory(gpu_free_bytes: int | None = None, cgroup: Path = CGROUP) -> int:
    """Bytes that a training may take: those free on the accelerator where there is one, else in RAM.

    Args:
        gpu_free_bytes: Free memory of the accelerator, as a role with torch reported it.
        cgroup: Where Linux tells the limit of a container, which the figures of the machine leave out.
    """
    if gpu_free_bytes is not None:
        return gpu_free_bytes
    free = int(psutil.virtual_memory().available)
    limit, used = _read_number(cgroup / "memory.max"), _read_number(cgroup / "memory.current")
    return free if limit is None or used is None else max(min(free, limit - used), 0)


def total_memory(cgroup: Path = CGROUP) -> int:
    """Bytes of RAM that the machine has, or that its container may take.

    Args:
        cgroup: See `available_memory`.
    """
    limit, total = _read_number(cgroup / "memory.max"), int(psutil.virtual_memory().total)
    return total if limit is None else min(limit, total)


def _trained_numbers(workload: Workload, numbers: int) -> int:
    """Of a prefix of so many numbers: they themselves, or the network that they are the output of."""
    if not workload.is_network:
        return numbers
    length, (inputs, least) = workload.num_virtual_tokens, MLP_WIDTHS
    hidden, outputs = max(least, 2 * length), numbers // max(length, 1)
    return length * inputs + (inputs + 1) * hidden + (hidden + 1) * outputs


def _weight_bytes(geometry: Geometry, num_parameters: int, width: int, precision: str) -> int:
    bits = BITS_PER_WEIGHT.get(precision)
    if bits is None:
        return num_parameters * width
    whole = min(TABLES_IN_WHOLE * geometry.vocab_size * geometry.hidden_size, num_parameters)
    return whole * width + int((num_parameters - whole) * bits / 8)


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
