"""How the file was read, and the way to say it better: encoding, separator, header, sheet."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

AUTOMATIC = ("Automatic", "")
SEPARATORS = [("Comma", ","), ("Tab", "\t"), ("Semicolon", ";"), ("Bar", "|"), ("Space", " "), ("Colon", ":")]
ENCODINGS = ["utf-8", "utf-16", "cp1252", "latin-1", "mac_roman", "cp1250", "cp1251", "shift_jis", "gb18030"]
RAGGED = [("Refuse the file", ""), ("Leave out and count", "leave out")]
HEADERS = [("Yes", "yes"), ("No", "no")]

Updates = tuple[Any, ...]


class ReadingPanel:
    """The fields in a fold; an empty one leaves the matter to be found."""

    def __init__(self) -> None:
        with gr.Accordion("How the file is read", open=False, elem_id="train-reading") as self.fold, gr.Row():
            self.encoding = gr.Dropdown(
                [AUTOMATIC, *ENCODINGS], value="", label="Encoding", min_width=170, elem_id="train-encoding"
            )
            self.delimiter = gr.Dropdown(
                [AUTOMATIC, *SEPARATORS],
                value="",
                label="Between two columns stands",
                allow_custom_value=True,
                min_width=170,
                elem_id="train-delimiter",
            )
            self.header = gr.Dropdown(
                [AUTOMATIC, *HEADERS], value="", label="The first row names the columns", min_width=170,
                elem_id="train-header",
            )  # fmt: skip
            self.ragged = gr.Dropdown(
                RAGGED, value="", label="Rows with too many or too few fields", min_width=170, elem_id="train-ragged"
            )
            self.sheet = gr.Dropdown(
                [AUTOMATIC], value="", label="Sheet", visible=False, min_width=170, elem_id="train-sheet"
            )

    @property
    def fields(self) -> list[Any]:
        """What the user says, in the order that `read_options` takes."""
        return [self.encoding, self.delimiter, self.header, self.sheet, self.ragged]

    def show(self, detected: Mapping[str, Any], told: Mapping[str, Any]) -> Updates:
        """Fields for a file that was read: what was found stands beside "automatic", what was told is chosen.

        Args:
            detected: What the reader found, with `choices` of each field.
            told: Options that were told rather than found.
        """
        choices = detected.get("choices", {})
        encodings = list(dict.fromkeys([*choices.get("encoding", []), *ENCODINGS]))
        named = {sign: name for name, sign in SEPARATORS}
        separators = [(named.get(sign, repr(sign)), sign) for sign in choices.get("delimiter", [])] or SEPARATORS
        sheets = choices.get("sheet", [])
        header = {True: "yes", False: "no"}.get(bool(told["header"]), "") if "header" in told else ""
        found_header = None if "header" not in detected else "Yes" if detected["header"] else "No"
        delimiter = str(detected.get("delimiter") or "")
        return (
            _field("encoding", detected, told, encodings, str(detected.get("encoding", "")), "encoding" in choices),
            _field(
                "delimiter", detected, told, separators, named.get(delimiter, repr(delimiter)), delimiter is not None
            ),
            gr.Dropdown(
                [_found(None if "header" in told else found_header), *HEADERS],
                value=header,
                visible=found_header is not None,
            ),
            _field("sheet", detected, told, sheets, str(detected.get("sheet", "")), len(sheets) > 1),
            gr.Dropdown(value="leave out" if told.get("leave_out_ragged") else "", visible=bool(delimiter)),
        )


def read_options(
    encoding: str | None, delimiter: str | None, header: str | None, sheet: str | None, ragged: str | None = None
) -> dict[str, Any]:
    """The fields of the panel as the services know them; what is left to be found is missing."""
    told = {"encoding": encoding, "delimiter": delimiter, "sheet": sheet}
    options: dict[str, Any] = {name: value for name, value in told.items() if value}
    if header:
        options["header"] = header == "yes"
    if ragged:
        options["leave_out_ragged"] = True
    return options


def _found(name: str | None) -> tuple[str, str]:
    return (f"{AUTOMATIC[0]}: {name}", "") if name else AUTOMATIC


def _field(
    name: str, detected: Mapping[str, Any], told: Mapping[str, Any], choices: list[Any], found: str, is_shown: bool
) -> Any:
    automatic = _found(found if name not in told and detected.get(name) is not None else None)
    return gr.Dropdown([automatic, *choices], value=told.get(name, ""), visible=is_shown)
