"""Where an answer counts as ended, the same for every side."""

from collections.abc import Sequence

MARKS = ("\n", "\n\n")


def trimmed(answers: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Answers without what goes beyond the form of the targets, the same for every side.

    A base that was never told where to end goes on with the next line or the next example. Where no target has a line
    break, the first line of an answer is what counts; where none has a blank line, the text before the first one.

    Args:
        answers: As they were generated.
        targets: All texts that are known to be right answers to some row.
    """
    stripped = [answer.strip() for answer in answers]
    for mark in MARKS:
        if not any(mark in target.strip() for target in targets):
            return [answer.split(mark, 1)[0].rstrip() for answer in stripped]
    return stripped
