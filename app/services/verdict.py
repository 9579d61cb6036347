"""The verdict on a prefix in words: one sentence, a small table, what it saves and what it rests on."""

from dataclasses import dataclass
from typing import Any, TypeGuard

Evaluation = dict[str, Any]
"""`metrics["evaluation"]` of docs/contract.md."""

SIDES = {
    "base": "Base model",
    "instruction": "Base with instruction",
    "few-shot": "Base with examples",
    "prefix": "With the prefix",
}
RIVALS = {"base": "the base", "instruction": "the written instruction", "few-shot": "examples in the prompt"}
METRICS = {
    "accuracy": "Right",
    "exact_match": "Exactly right",
    "macro_f1": "Macro-F1",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
    "bleu": "BLEU",
}
SHARES = ("accuracy", "exact_match")
"""Metrics that are a share of the rows; the others are points of 100."""

PARTS = {"test": "test part", "validation": "validation part"}
ENDINGS = {
    "time": "The time for the comparison was up before the other rows were answered.",
    "asked": "The comparison was ended before the other rows were answered.",
}
FEW_ROWS = 30


@dataclass(frozen=True)
class Table:
    """The figures of all sides.

    Attributes:
        headers: The side, the metric that decides, the verdict, the length of a prompt, the other metrics.
        rows: As many cells each, as text.
        ranges: For each row low end, value and high end of the metric that decides, 0 to 1.
    """

    headers: list[str]
    rows: list[list[str]]
    ranges: list[tuple[float, float, float]]


def body(metrics: dict[str, Any], *, with_rows: bool = True) -> dict[str, Any]:
    """The figures of a job or prefix as REST answers with them: the evaluation says its verdict in words.

    Args:
        metrics: As they are kept.
        with_rows: Whether rows of the user's data are wanted.
    """
    evaluation = metrics.get("evaluation")
    if not isinstance(evaluation, dict):
        return dict(metrics)
    kept = {name: value for name, value in evaluation.items() if with_rows or name != "rows"}
    return {**metrics, "evaluation": {**kept, "sentence": sentence(evaluation)}}


def is_judged(evaluation: Evaluation | None) -> TypeGuard[Evaluation]:
    """Whether there are figures; otherwise at most a reason why there are none."""
    return bool(evaluation and evaluation.get("verdicts"))


def sentence(evaluation: Evaluation) -> str:
    """The whole verdict in one sentence."""
    if not is_judged(evaluation):
        return f"Not compared with the base model. {evaluation.get('reason', '')}".strip()
    metric, arms = evaluation["metric"], evaluation["arms"]
    others = [f"{_asked(arm, arms[arm])} {_figure(metric, arms[arm])}" for arm in evaluation["verdicts"]]
    rows = f"{evaluation['num_rows']:,} {'row' if evaluation['num_rows'] == 1 else 'rows'}"
    return (
        f"On {rows} that it was not trained on, {_claim(metric, arms['prefix'])}; {', '.join(others)}: "
        f"{_conclusion(evaluation)}."
    )


def overall(evaluation: Evaluation) -> str:
    """One word for all comparisons: `helps`, `no difference`, `worse`, or `mixed`."""
    told = {against["verdict"] for against in evaluation["verdicts"].values()}
    return str(told.pop()) if len(told) == 1 else "mixed"


def headline(evaluation: Evaluation) -> str:
    """Base and prefix in a few characters, for lists: `0 % → 75 % right`."""
    metric, arms = evaluation["metric"], evaluation["arms"]
    words = "right" if metric in SHARES else METRICS[metric]
    return f"{_figure(metric, arms['base'])} → {_figure(metric, arms['prefix'])} {words}"


def table(evaluation: Evaluation) -> Table:
    """Every side with every metric."""
    arms, verdicts, deciding = evaluation["arms"], evaluation["verdicts"], evaluation["metric"]
    others = [name for name in arms["prefix"]["metrics"] if name != deciding]
    headers = [METRICS[deciding], "The prefix against it", "Tokens per prompt", *[METRICS[name] for name in others]]
    rows = [
        [
            SIDES[arm],
            _with_interval(deciding, told["metrics"][deciding]),
            _difference(verdicts.get(arm)),
            f"{told['prompt_tokens']:,.0f}",
            *[_with_interval(name, told["metrics"][name]) for name in others],
        ]
        for arm, told in arms.items()
    ]
    figures = [told["metrics"][deciding] for told in arms.values()]
    return Table(["", *headers], rows, [(each["low"], each["value"], each["high"]) for each in figures])


def savings(evaluation: Evaluation) -> str:
    """What a request gets shorter by; empty where there is neither an instruction nor an example to do without."""
    told = [
        f"{against['tokens_saved']:,.0f} tokens against {RIVALS[arm]}"
        for arm, against in evaluation["verdicts"].items()
        if against["tokens_saved"] > 0
    ]
    return f"Each request saves {' and '.join(told)}." if told else ""


def notes(evaluation: Evaluation) -> list[str]:
    """Which rows these are, and what limits the figures."""
    count, held_out = evaluation["num_rows"], evaluation["num_held_out"]
    part = PARTS[evaluation["part"]]
    share = f"all {count:,} rows" if count == held_out else f"{count:,} of the {held_out:,} rows, drawn by the seed,"
    told = [f"Asked were {share} of the {part}, each prompt once and none that was trained on."]
    if evaluation["chose_checkpoint"]:
        told.append(
            "The same part chose the best step of the training, which favours the prefix a little; rows in a test part "
            "of their own would not."
        )
    told.append(
        "Ranges hold 95 times of 100 (bootstrap over the rows; differences by pairs). Answers are the most likely ones."
    )
    ending = ENDINGS.get(evaluation.get("ended", ""))
    if ending:
        told.append(ending)
    if count < FEW_ROWS:
        told.append("With so few rows only large differences can be told apart.")
    return told


def _claim(metric: str, arm: dict[str, Any]) -> str:
    figure, value = arm["metrics"][metric], _figure(metric, arm)
    span = f"{_points(figure['low'])} to {_points(figure['high'])}"
    if metric in SHARES:
        return f"the prefix answers {value} {METRICS[metric].lower()} ({span} %)"
    return f"the prefix's answers match the expected ones to {value} of 100 ({METRICS[metric]}, {span})"


def _asked(arm: str, told: dict[str, Any]) -> str:
    if arm == "few-shot" and told.get("examples"):
        count = told["examples"]
        return f"with {count} {'example' if count == 1 else 'examples'} in the prompt"
    return {"base": "the base", "instruction": "with the written instruction"}.get(arm, "with examples in the prompt")


def _conclusion(evaluation: Evaluation) -> str:
    words = {"helps": "it helps", "no difference": "no difference can be told", "worse": "it does worse"}
    word = overall(evaluation)
    if word != "mixed":
        return words[word]
    phrases = {
        "helps": "it helps against {}",
        "no difference": "no difference can be told to {}",
        "worse": "it does worse than {}",
    }
    parts = []
    for verdict, phrase in phrases.items():
        rivals = [RIVALS[arm] for arm, against in evaluation["verdicts"].items() if against["verdict"] == verdict]
        if rivals:
            parts.append(phrase.format(" and ".join(rivals)))
    return ", ".join(parts)


def _difference(against: dict[str, Any] | None) -> str:
    if against is None:
        return "–"
    difference = against["difference"]
    low, high = _points(difference["low"]), _points(difference["high"])
    counts = f"better on {against['gained']:,} rows, worse on {against['lost']:,}"
    return f"{against['verdict']}: {_points(difference['value'], sign=True)} points ({low} to {high}), {counts}"


def _with_interval(metric: str, figure: dict[str, float]) -> str:
    unit = " %" if metric in SHARES else ""
    return f"{_points(figure['value'])}{unit} ({_points(figure['low'])} to {_points(figure['high'])})"


def _figure(metric: str, arm: dict[str, Any]) -> str:
    return _points(arm["metrics"][metric]["value"]) + (" %" if metric in SHARES else "")


def _points(value: float, *, sign: bool = False) -> str:
    """A share of 1 as a whole number of 100; a minus sign that lines up with digits."""
    number = round(100 * value)
    text = f"{number:+d}" if sign and number else str(number)
    return text.replace("-", "−")
