"""Metrics of answers: each a pure function of answers and references, all from 0 to 1; knows no model."""

import re
import statistics
import string
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from worker.evaluation.tally import FloatArray, Tally

TaskKind = Literal["labels", "text"]
MetricName = Literal["accuracy", "macro_f1", "exact_match", "rouge_l", "chrf", "bleu"]

MAX_LABELS = 100
MAX_LABEL_CHARACTERS = 100
MIN_ROWS_PER_LABEL = 4
MAX_SHORT_WORDS = 3

BLEU_ORDER = 4

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
"""A word, or one character of a script that writes no spaces between words."""


def task_kind(references: Sequence[str]) -> TaskKind:
    """Whether the targets are labels, few and short and each given again and again, or texts.

    Args:
        references: As many targets as there are; those of the training part may be among them.
    """
    distinct = {_label(reference) for reference in references}
    is_few = len(distinct) <= min(MAX_LABELS, len(references) // MIN_ROWS_PER_LABEL)
    return "labels" if is_few and all(len(label) <= MAX_LABEL_CHARACTERS for label in distinct) else "text"


def metrics_of(kind: TaskKind) -> tuple[MetricName, ...]:
    """The metrics that say something about this kind of targets."""
    return ("accuracy", "macro_f1", "exact_match") if kind == "labels" else ("exact_match", "rouge_l", "chrf", "bleu")


def main_metric(kind: TaskKind, references: Sequence[str]) -> MetricName:
    """The metric that decides: accuracy of labels, exact match of very short texts, chrF of all others.

    chrF rather than ROUGE-L or BLEU: it works in every script, and it sees a wrong digit or ending.

    Args:
        kind: Of the task.
        references: The targets.
    """
    if kind == "labels":
        return "accuracy"
    words = [len(reference.split()) for reference in references]
    return "exact_match" if words and statistics.median(words) <= MAX_SHORT_WORDS else "chrf"


def measure(name: MetricName, answers: Sequence[str], references: Sequence[str]) -> Tally:
    """One metric by its name.

    Args:
        name: Which one.
        answers: One for each row.
        references: As many.

    Raises:
        ValueError: There are not as many answers as references, or none.
    """
    if len(answers) != len(references) or not answers:
        raise ValueError(f"{len(answers)} answers and {len(references)} references; expected as many, and at least one")
    return METRICS[name](answers, references)


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Tally:
    """Share of answers that are their references, but for white space."""
    pairs = zip(answers, references, strict=True)
    return Tally.of_scores([float(_squeezed(answer) == _squeezed(reference)) for answer, reference in pairs])


def accuracy(answers: Sequence[str], references: Sequence[str]) -> Tally:
    """Share of right labels; case and punctuation around a label do not count."""
    pairs = zip(answers, references, strict=True)
    return Tally.of_scores([float(_label(answer) == _label(reference)) for answer, reference in pairs])


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> Tally:
    """Mean of F1 over the labels of the references; an answer that is no label is a miss, not a label of its own."""
    expected = [_label(reference) for reference in references]
    given = [_label(answer) for answer in answers]
    labels = np.array(sorted(set(expected)))
    is_expected = np.asarray(expected)[:, None] == labels
    is_given = np.asarray(given)[:, None] == labels
    hits = is_expected & is_given
    counts = np.concatenate([hits, is_expected, is_given], axis=1).astype(np.float64)
    return Tally(counts, _macro_f1, hits.any(axis=1).astype(np.float64))


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> Tally:
    """Mean of ROUGE-L: F1 of the longest common subsequence of words, in lower case and without punctuation.

    Source: Lin, ROUGE: A Package for Automatic Evaluation of Summaries (2004), equation 4 with beta 1.
    """
    pairs = zip(answers, references, strict=True)
    return Tally.of_scores([_rouge_l(_words(answer), _words(reference)) for answer, reference in pairs])


def chrf(answers: Sequence[str], references: Sequence[str]) -> Tally:
    """Mean of chrF2 over the rows, as sacrebleu computes it for a sentence.

    Source: Popović, chrF: character n-gram F-score for automatic MT evaluation (2015).
    """
    from sacrebleu.metrics.chrf import CHRF

    scorer = CHRF()
    pairs = zip(answers, references, strict=True)
    return Tally.of_scores([scorer.sentence_score(answer, [reference]).score / 100 for answer, reference in pairs])


def bleu(answers: Sequence[str], references: Sequence[str]) -> Tally:
    """BLEU of all rows together, as sacrebleu computes it by default; a row's own score is its sentence BLEU.

    Source: Post, A Call for Clarity in Reporting BLEU Scores (2018).
    """
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(effective_order=True, force=True)
    pairs = zip(answers, references, strict=True)
    rows = [scorer.sentence_score(answer, [reference]) for answer, reference in pairs]
    counts = np.array([[*row.counts, *row.totals, row.sys_len, row.ref_len] for row in rows], dtype=np.float64)
    return Tally(counts, _bleu, np.array([row.score / 100 for row in rows]))


METRICS: dict[MetricName, Callable[[Sequence[str], Sequence[str]], Tally]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "exact_match": exact_match,
    "rouge_l": rouge_l,
    "chrf": chrf,
    "bleu": bleu,
}


def _macro_f1(totals: FloatArray) -> FloatArray:
    hits, expected, given = np.split(totals, 3, axis=-1)
    f1 = 2 * hits / np.maximum(expected + given, 1)
    # A sample of the rows may lack a label altogether; it has no F1 there.
    is_there = expected > 0
    return np.asarray((f1 * is_there).sum(axis=-1) / is_there.sum(axis=-1))


def _bleu(totals: FloatArray) -> FloatArray:
    from sacrebleu.metrics.bleu import BLEU

    def of(row: FloatArray) -> float:
        numbers = [int(number) for number in row]
        matches, sizes = numbers[:BLEU_ORDER], numbers[BLEU_ORDER : 2 * BLEU_ORDER]
        answered, expected = numbers[-2:]
        score: float = BLEU.compute_bleu(matches, sizes, answered, expected, smooth_method="exp").score
        return score / 100

    return np.asarray(np.apply_along_axis(of, -1, totals))


def _rouge_l(answer: list[str], reference: list[str]) -> float:
    common = _common_subsequence(answer, reference)
    return 2 * common / (len(answer) + len(reference)) if common else 0.0


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    One bit for each element of `first`; a bit goes out where the subsequence grows.

    Source: Hyyrö, Bit-Parallel LCS-length Computation Revisited (2004).
    """
    places: dict[str, int] = {}
    for index, element in enumerate(first):
        places[element] = places.get(element, 0) | 1 << index
    everything = (1 << len(first)) - 1
    open_bits = everything
    for element in second:
        met = open_bits & places.get(element, 0)
        open_bits = (open_bits + met | open_bits - met) & everything
    return len(first) - open_bits.bit_count()


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _label(text: str) -> str:
    return _squeezed(text).casefold().strip(string.punctuation + string.whitespace)
