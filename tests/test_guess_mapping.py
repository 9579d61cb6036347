"""The first guess of prompt, answer and instruction, which most users keep."""

from pathlib import Path

import pytest

from storage.tables.detect import open_reader
from storage.tables.guess import guess_mapping
from storage.tables.limits import Limits, ReadOptions
from storage.tables.sources import SourceFile

Rows = list[dict[str, str]]


def guess(rows: Rows) -> tuple[str, str, str]:
    """Template, target and instruction that are guessed for a table."""

    def distinct(column: str, limit: int) -> list[str] | None:
        values = list(dict.fromkeys(row[column] for row in rows))
        return values if len(values) <= limit else None

    mapping = guess_mapping(list(rows[0]), rows, distinct)
    return mapping["template"], mapping["target"], mapping["instruction"]


def table(num_rows: int = 40, **columns: str | list[str]) -> Rows:
    """Rows whose cells are texts with a number in them, or the given values in turn."""

    def cell(kind: str | list[str], index: int) -> str:
        return f"{kind} number {index} with some words" if isinstance(kind, str) else kind[index % len(kind)]

    return [{name: cell(kind, index) for name, kind in columns.items()} for index in range(num_rows)]


@pytest.mark.parametrize(
    ("rows", "template", "target"),
    [
        (table(mr="data", ref="text"), "{mr}", "ref"),
        (table(text="text", label=["a", "b"]), "{text}", "label"),
        (table(label=["a", "b"], message="text"), "{message}", "label"),
        (table(question="ask", answer="say"), "{question}", "answer"),
        (
            table(question="ask", context="tell", answer="say"),
            "context: {context}\nquestion: {question}",
            "answer",
        ),
        (table(instruction="do", input="this", output="that"), "{instruction}\n{input}", "output"),
        (table(prompt="a", completion="b"), "{prompt}", "completion"),
        (table(source="a", target="b"), "{source}", "target"),
        (table(Input="a", Output="b"), "{Input}", "Output"),
        (table(complex_sentence="a", simple_sentences="b"), "{complex_sentence}", "simple_sentences"),
        (table(column_1=["ham", "spam"], column_2="text"), "{column_2}", "column_1"),
        (table(column_1="text", column_2=["ham", "spam"]), "{column_1}", "column_2"),
    ],
)
def test_names_and_content_tell_prompt_from_answer(rows: Rows, template: str, target: str) -> None:
    assert guess(rows)[:2] == (template, target)


def test_label_text_is_preferred_to_label_numbers() -> None:
    rows = table(text="text", label=["0", "1"], label_text=["no", "yes"])
    assert guess(rows)[1] == "label_text"


def test_identifiers_and_empty_columns_stay_out_of_the_prompt() -> None:
    rows = [
        {"id": f"x-{index}", "note": "", "words": f"some words {index}", "kind": "ab"[index % 2]} for index in range(50)
    ]
    assert guess(rows)[:2] == ("{words}", "kind")


def test_parts_of_the_answer_stay_out_of_the_prompt() -> None:
    rows = table(message="text", slots='{"text": "x"}')
    for row in rows:
        row["slots.text"] = "x"
    assert guess(rows)[:2] == ("{message}", "slots")


def test_a_column_whose_name_has_braces_is_not_put_into_a_template() -> None:
    rows = [
        {"a{b}": f"some words {index}", "words": f"more words {index}", "label": "ab"[index % 2]} for index in range(50)
    ]
    assert guess(rows)[0] == "{words}"


@pytest.mark.parametrize(
    ("rows", "instruction"),
    [
        (table(message="text", label=["spam", "ham"]), "Classify the message as one of: ham, spam."),
        (table(text="text", category=[f"class {index}" for index in range(30)]), "Name the category of the text."),
        (table(passage="a", question="b", answer="c"), "Answer the question from the passage."),
        (table(mr="a", ref="b"), "Put the data into words."),
        (table(article="a", summary="b"), "Summarise the text."),
        (table(instruction="a", output="b"), ""),
        (table(prompt="a", completion="b"), ""),
    ],
)
def test_an_obvious_task_is_put_into_words(rows: Rows, instruction: str) -> None:
    assert guess(rows)[2] == instruction


@pytest.mark.parametrize("num_rows", [1, 2])
def test_tiny_tables_get_a_mapping_too(num_rows: int) -> None:
    template, target, _ = guess(table(num_rows, a="x", b="y"))
    assert {template, target} in ({"{a}", "b"}, {"{b}", "a"})


TASKS = {
    "e2e_nlg/train.csv": ("{mr}", "ref"),
    "banking77/train.csv": ("{text}", "category"),
    "sms_spam/train.tsv": ("{message}", "label"),
    "wiki_split/train.tsv": ("{complex_sentence}", "simple_sentences"),
    "fairytale_qa/train.jsonl": ("passage: {passage}\nquestion: {question}", "answer"),
    "restaurant8k/train.jsonl": ("{message}", "slots"),
    "rt_polarity/train.csv": ("{text}", "sentiment"),
    "self_instruct_seeds/train.jsonl": ("{instruction}\n{input}", "output"),
    "svamp/train.jsonl": ("Body: {Body}\nQuestion: {Question}", "Answer"),
}


@pytest.mark.parametrize("name", TASKS)
def test_real_tasks_are_guessed_right(name: str, shared_folder: Path) -> None:
    path = shared_folder / "data" / "tasks" / name
    reader = open_reader(SourceFile(path, path.name, Limits()), ReadOptions())
    columns = reader.columns()
    rows = [dict(zip(columns, cells, strict=True)) for cells in reader.rows(columns)]
    assert guess(rows)[:2] == TASKS[name]


def test_last_column_called_sentence_is_written_of_the_facts_before_it() -> None:
    rows = [{"facts": f"name: Place {index}", "sentence": f"Place {index} is here."} for index in range(30)]
    assert guess_mapping(["facts", "sentence"], rows, lambda column, limit: None)["target"] == "sentence"


@pytest.mark.parametrize("cells", [[""] * 12, ["", '[{"role": "user", "content": "q"}]']])
def test_conversations_are_known_even_where_the_assistant_never_answers(cells: list[str]) -> None:
    mapping = guess_mapping(["messages"], [{"messages": cell} for cell in cells], lambda column, limit: None)
    assert (mapping["template"], mapping["target"], mapping["rendering"]) == ("{messages}", "messages", "chat")
