"""The peer: PEFT's prefix tuning under transformers' Trainer, as its documentation shows it."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel

from bench.training.rows import TokenRow
from bench.training.timing import Timed

IGNORED = -100


def check_installed() -> None:
    """Refuses with a sentence where the peer is missing.

    Raises:
        SystemExit: `peft` or `accelerate` is not installed.
    """
    missing = [name for name in ("peft", "accelerate") if find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"The comparison needs {' and '.join(missing)}, which the app itself does not. "
            "Install the test dependencies: pip install -e '.[test]'."
        )


class PeftTrainer:
    """Trains with the defaults of `TrainingArguments`: AdamW, random order, padding to the longest row of a batch.

    Args:
        model: The base; in bfloat16 for the peer in bf16, which is faster here than autocast over fp32 weights.
        num_virtual_tokens: Length of the prefix.
        clock: What tells the time in seconds.
    """

    def __init__(self, model: PreTrainedModel, num_virtual_tokens: int, clock: Callable[[], float]) -> None:
        self.clock = clock
        from peft import PrefixTuningConfig, get_peft_model

        for about in ("is_gradient_checkpointing", "pin_memory"):
            warnings.filterwarnings("ignore", message=f".*{about}.*")
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=num_virtual_tokens)
        self.model = get_peft_model(model, config)

    def run(self, rows: Sequence[TokenRow], *, steps: int, batch_size: int, seed: int) -> Timed:
        """Trains for some steps, and times all but the first."""
        from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

        clock = self.clock
        ends: list[float] = []
        tokens: list[int] = []

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                _wait()
                ends.append(clock())

        def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            tokens.append(sum(len(feature["input_ids"]) for feature in features))
            return pad(features)

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=batch_size,
                max_steps=steps,
                seed=seed,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
            )
            trainer = Trainer(
                model=self.model,
                args=arguments,
                train_dataset=[_features(row) for row in rows],
                data_collator=collate,
                callbacks=[Clock()],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return Timed(sum(tokens[1:steps]), ends[-1] - ends[0])


def pad(features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pads on the right to the longest row, as `DataCollatorForSeq2Seq` does, without needing a tokenizer."""
    longest = max(len(feature["input_ids"]) for feature in features)

    def padded(name: str, filler: int) -> torch.Tensor:
        lists = [list(feature[name]) for feature in features]
        return torch.tensor([values + [filler] * (longest - len(values)) for values in lists])

    return {
        "input_ids": padded("input_ids", 0),
        "attention_mask": padded("attention_mask", 0),
        "labels": padded("labels", IGNORED),
    }


def _features(row: TokenRow) -> dict[str, Any]:
    ids = [*row.prompt_ids, *row.target_ids]
    labels = [IGNORED] * len(row.prompt_ids) + list(row.target_ids)
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
