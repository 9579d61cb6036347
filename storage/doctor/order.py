"""What the doctor is asked for, as its own process reads it from a file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from storage.doctor.finding import Repair
from storage.tables.limits import Limits
from storage.tables.table import Part
from storage.tables.view import View


@dataclass(frozen=True)
class Order:
    """A table and what is to be done with it.

    Attributes:
        paths: The Parquet file of each part.
        view: Which columns are prompt and answer.
        mapping: Holds `validation_fraction` and `seed`.
        repairs: What is to be mended; nothing to only look at the table.
        after: Which columns are prompt and answer once it is mended.
        is_trial: Whether to say what would change, and write nothing.
        max_rows: Rows of each part to look at; None looks at all.
    """

    paths: Mapping[Part, Path]
    view: View
    mapping: Mapping[str, Any]
    repairs: Sequence[Repair] = ()
    after: View | None = None
    is_trial: bool = False
    max_rows: int | None = None
    limits: Limits = field(default_factory=Limits)

    def to_dict(self) -> dict[str, Any]:
        """The order as JSON can hold it."""
        return {
            "paths": {part: str(path) for part, path in self.paths.items()},
            "view": asdict(self.view),
            "mapping": dict(self.mapping),
            "repairs": list(self.repairs),
            "after": asdict(self.after) if self.after else None,
            "is_trial": self.is_trial,
            "max_rows": self.max_rows,
            "limits": self.limits.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Order":
        """Reads what `to_dict` wrote."""
        return cls(
            paths={part: Path(path) for part, path in values["paths"].items()},
            view=_view(values["view"]),
            mapping=values["mapping"],
            repairs=values["repairs"],
            after=_view(values["after"]) if values["after"] else None,
            is_trial=values["is_trial"],
            max_rows=values["max_rows"],
            limits=Limits(**values["limits"]),
        )


def _view(values: dict[str, Any]) -> View:
    return View(tuple(values["columns"]), tuple(values["prompt"]), values["target"], values["template_characters"])
