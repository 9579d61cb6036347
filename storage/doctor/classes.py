"""Answers that are classes: their counts, spellings of one class, rare and dominating ones."""

from collections import Counter
from collections.abc import Mapping

from storage.doctor.scan import PartScan

LABEL_SHARE = 0.2
"""Where the different answers are fewer than this share of the rows, they are classes rather than texts."""

RARE_ROWS = 5
DOMINATING_SHARE = 0.8
MIN_ROWS = 20
"""Shares of fewer rows say little."""

Counts = Mapping[str, int]


def classes_of(scan: PartScan) -> dict[str, int]:
    """How often each class comes, the most frequent first; nothing where the answers are texts."""
    counts = {label: count for label, count in (scan.classes or {}).items() if label.strip()}
    usable = sum(counts.values())
    if not 1 < len(counts) <= max(2, LABEL_SHARE * usable):
        return {}
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def spelling_of(scan: PartScan) -> dict[str, str]:
    """The spelling of each class that most rows have, by its name without case and spaces to spare.

    Classes are counted after the merge: `Yes`, `yes ` and `YES` are one, whatever share of the rows they are. Nothing
    where the answers are texts.
    """
    counts = {label: count for label, count in (scan.classes or {}).items() if label.strip()}
    groups: dict[str, Counter[str]] = {}
    for label, count in counts.items():
        groups.setdefault(plain(label), Counter())[label] += count
    if len(groups) > max(2, LABEL_SHARE * sum(counts.values())):
        return {}
    return {name: _tidiest(group) for name, group in groups.items()}


def misspelt(scan: PartScan, spelling: Mapping[str, str]) -> dict[str, str]:
    """Answers that differ from a class only in case or spaces, with the spelling that most rows have."""
    found = {label: spelling.get(plain(label), label) for label in scan.classes or {} if label.strip()}
    return {label: chosen for label, chosen in found.items() if label != chosen}


def plain(label: str) -> str:
    """A class without case and spaces to spare."""
    return " ".join(label.split()).casefold()


def rare(counts: Counts) -> list[str]:
    """Classes that too few rows show, all spellings of a class taken together."""
    together: Counter[str] = Counter()
    for label, count in counts.items():
        together[plain(label)] += count
    return [label for label in counts if together[plain(label)] < RARE_ROWS]


def dominating(counts: Counts) -> str | None:
    """The class that most rows have, where it is nearly all of them."""
    total = sum(counts.values())
    label, count = next(iter(counts.items()), ("", 0))
    return label if total >= MIN_ROWS and count >= DOMINATING_SHARE * total else None


def _tidiest(group: Counter[str]) -> str:
    """The most frequent spelling without spaces to spare; spaces around the most frequent one are cut."""
    tidy = [label for label in group if label == " ".join(label.split())]
    if tidy:
        return max(tidy, key=lambda label: group[label])
    return " ".join(group.most_common(1)[0][0].split())
