"""Real files open rightly with no option set by hand; docs/data-formats.md tells how each was read.

`python -m tests.test_real_files` writes that table anew; read the difference before committing it.
"""

import sys
import tempfile
from pathlib import Path

import pytest

from app.context import AppContext
from app.services.datasets import upload
from storage.artifacts import ArtifactStore
from storage.database import open_database
from storage.migrate import migrate
from storage.settings import read_settings

PAGE = Path(__file__).parents[1] / "docs" / "data-formats.md"
BEGIN, END = "<!-- real files: begin -->", "<!-- real files: end -->"
SHARED = Path(__file__).parents[2] / "shared"

READ_AS = {
    "alpaca_array.json": ("json", 999, "{instruction}\n{input}", "output"),
    "banking77_crlf.csv": ("csv", 3080, "{text}", "category"),
    "banking_semicolon_cp1252.csv": ("csv", 3080, "{text}", "category"),
    "chat_messages_parts.jsonl": ("jsonl", 500, "{messages}", "messages"),
    "e2e_bom.csv": ("csv", 970, "{mr}", "ref"),
    "e2e_utf16.txt": ("tsv", 970, "{mr}", "ref"),
    "gsm8k_chat.jsonl": ("jsonl", 600, "{messages}", "messages"),
    "gsm8k_prompt_completion.jsonl.gz": ("jsonl", 600, "{prompt}", "completion"),
    "restaurant8k_nested.json": ("json", 3731, None, "labels"),
    "rt_polarity.xlsx": ("xlsx", 1067, "{text}", "sentiment"),
    "seed_tasks_nested.jsonl": ("jsonl", 175, "{instruction}\n{instances.input}", "instances.output"),
    "sharegpt_toolcalls.json": ("json", 300, "{messages}", "messages"),
    "sms_no_header.tsv": ("tsv", 5574, "{column_2}", "column_1"),
    "snips.parquet": ("parquet", 700, "{text}", None),
}
"""What a person sees in these files: format, rows, prompt and answer; None where either guess would do."""


@pytest.fixture
def context(tmp_path: Path) -> AppContext:
    return opened(tmp_path / "home")


def opened(home: Path) -> AppContext:
    settings = read_settings({"PREFIX_STUDIO_HOME": str(home)})
    home.mkdir(mode=0o700)
    migrate(settings)
    return AppContext(settings, open_database(settings), ArtifactStore(settings))


@pytest.mark.parametrize("name", READ_AS)
def test_a_real_file_is_read_and_mapped_as_a_person_would(context: AppContext, shared_folder: Path, name: str) -> None:
    path = shared_folder / "data" / "dirty" / name
    dataset = upload(context, [(name, path)], None)
    context.database.close()
    form, rows, template, target = READ_AS[name]
    assert (dataset["detected"]["format"], dataset["num_rows"]) == (form, rows)
    assert dataset["blocked"] is False
    assert template in (None, dataset["mapping"]["template"])
    assert target in (None, dataset["mapping"]["target"])


@pytest.mark.slow
def test_the_table_of_real_files_is_what_happens(tmp_path: Path, shared_folder: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    told = page[page.index(BEGIN) + len(BEGIN) : page.index(END)].strip()
    assert told == table(shared_folder, tmp_path / "home"), (
        "run python -m tests.test_real_files and read the difference"
    )


def table(shared: Path, home: Path) -> str:
    """The table of all real files: each of `dirty` alone, the parts of each task together."""
    context = opened(home)
    files = [[path] for path in sorted((shared / "data" / "dirty").iterdir())]
    tasks = [sorted(folder.iterdir()) for folder in sorted((shared / "data" / "tasks").iterdir())]
    try:
        lines = [line(context, paths, shared / "data") for paths in [*files, *filter(None, tasks)]]
    finally:
        context.database.close()
    head = ["| file | detected | rows | prompt → answer | findings |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *lines])


def line(context: AppContext, paths: list[Path], root: Path) -> str:
    """One row of the table."""
    dataset = upload(context, [(path.name, path) for path in paths], None)
    detected, mapping = dataset["detected"], dataset["mapping"]
    shown = paths[0] if len(paths) == 1 else paths[0].parent
    rows = f"{dataset['num_rows']:,}"
    if len(paths) > 1:
        rows = " + ".join(f"{dataset[f'num_{part}']:,}" for part in ("train", "validation", "test"))
    parts = [f"{found['code']} {found['count']:,}".removesuffix(" 0") for found in dataset["findings"]]
    template = mapping["template"].replace("\n", " ⏎ ").replace("|", "\\|")
    words = "conversations" if detected.get("kind") == "conversation" else f"`{template}` → `{mapping['target']}`"
    findings = ", ".join(dict.fromkeys(parts)) or "none"
    description = detected["description"] + (f", {detected['line_ends']}" if "line_ends" in detected else "")
    return f"| `{shown.relative_to(root)}` | {description} | {rows} | {words} | {findings} |"


def main() -> None:
    """Writes the table into the page."""
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        found = table(SHARED, Path(folder) / "home")
    page = f"{page[: page.index(BEGIN)]}{BEGIN}\n{found}\n{page[page.index(END) :]}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
