"""Names that columns of prompts and answers have in data sets as people publish them."""

TARGET_NAMES = (
    "completion",
    "output",
    "outputs",
    "target",
    "target_text",
    "answer",
    "answers",
    "response",
    "reply",
    "ref",
    "reference",
    "summary",
    "highlights",
    "translation",
    "simple_sentences",
    "simplified",
    "paraphrase",
    "label_text",
    "text_label",
    "label_name",
    "label",
    "labels",
    "category",
    "class",
    "intent",
    "sentiment",
    "emotion",
    "topic",
    "tag",
    "slots",
    "entities",
    "sql",
    "code",
    "solution",
    "correct",
    "y",
)
"""Best guess first: where a table has several of them, the earlier is the answer."""

INPUT_NAMES = (
    "system",
    "instruction",
    "context",
    "passage",
    "story",
    "body",
    "background",
    "article",
    "document",
    "prompt",
    "input",
    "inputs",
    "source",
    "source_text",
    "mr",
    "meaning_representation",
    "premise",
    "sentence1",
    "text1",
    "hypothesis",
    "sentence2",
    "text2",
    "subject",
    "title",
    "question",
    "query",
    "problem",
    "text",
    "sentence",
    "complex_sentence",
    "message",
    "utterance",
    "review",
    "tweet",
    "comment",
    "content",
    "email",
    "post",
    "description",
    "original",
    "abstract",
    "x",
)
"""In the order in which a prompt tells them: what it is about first, the question last."""

OTHER_NAMES = ("id", "idx", "index", "name", "date", "timestamp", "type", "score", "rating", "author", "url", "lang")
"""Names that show a header but say neither prompt nor answer."""

LABEL_NAMES = frozenset(TARGET_NAMES[TARGET_NAMES.index("label_text") : TARGET_NAMES.index("slots")])
"""Names whose cells are one of a few classes."""


def simple(name: str) -> str:
    """A name as these lists have it: in lower case, the last part of a dotted one, words joined by underscores."""
    return "_".join(name.strip().rpartition(".")[2].lower().replace("-", " ").split())
