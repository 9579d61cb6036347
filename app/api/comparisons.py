"""Routes of comparisons that are kept, and of the tally of blind votes."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.attachment import attachment
from app.context import AppContext
from app.services import comparison_file, comparisons, votes
from storage.settings import MAX_COLUMNS_COMPARED, MAX_NAME_CHARACTERS

router = APIRouter(prefix="/comparisons", tags=["Comparisons"])

Finite = Annotated[float, Field(allow_inf_nan=False)]


def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context)]


class Strict(BaseModel):
    """Refuses fields that nobody reads."""

    model_config = ConfigDict(extra="forbid")


class Turn(Strict):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class SavedColumn(Strict):
    """A column, as `/v1/compare` takes it."""

    model: str = Field(min_length=1, max_length=300)
    context: Literal["none", "instruction", "few-shot"] = "none"
    strength: Annotated[Finite, Field(ge=0, le=100)] = 100
    messages: list[Turn] | None = Field(None, description="The column's own conversation up to its answer.")


class Explained(Strict):
    """Where the prefix changed the answer."""

    mean_kl: Finite
    tokens: list["ExplainedToken"]


class ExplainedToken(Strict):
    """One token of an answer, with and without the prefix."""

    text: str
    logprob: Finite
    base_logprob: Finite
    kl: Finite
    top: list[tuple[str, Finite]]
    base_top: list[tuple[str, Finite]]


class Answer(Strict):
    """What one column said."""

    text: str
    tokens: int = Field(0, ge=0)
    tokens_per_second: Finite | None = None
    finish_reason: str | None = Field(None, max_length=40)
    explained: Explained | None = None


class Proof(Strict):
    """The stamp of the comparison."""

    base_verified: bool | None = None
    max_difference: Finite | None = None
    prefix_kl: Finite | None = None


class Result(Strict):
    """What came out."""

    prompt: str = ""
    proof: Proof = Proof()
    answers: list[Answer]


class Asked(Strict):
    """What was asked of all columns."""

    prompt: str | None = None
    fields: dict[str, str] | None = None
    messages: list[Turn] | None = None
    rendering: dict[str, str] | None = None
    max_tokens: int | None = None
    temperature: Finite | None = None
    top_p: Finite | None = None
    seed: int | None = None


class SavedComparison(Strict):
    """A comparison to keep."""

    name: str | None = Field(None, max_length=MAX_NAME_CHARACTERS, description="By default the prompt's first words.")
    base_model: str = Field(min_length=1, max_length=200)
    columns: list[SavedColumn] = Field(min_length=1, max_length=MAX_COLUMNS_COMPARED)
    request: Asked
    result: Result


@router.get("", summary="Every comparison that was kept, the newest first")
def listing(context: Context) -> list[dict[str, Any]]:
    """Without answers; see one comparison for these."""
    return comparisons.listing(context)


@router.post("", status_code=201, summary="Keep a comparison")
def save(context: Context, comparison: SavedComparison) -> dict[str, Any]:
    """Nothing is computed: what was asked and answered is kept as it is sent. `POST /v1/compare` gives the answers."""
    return comparisons.save(context, comparison.model_dump(exclude_none=True))


@router.get("/votes", summary="The tally of blind votes, pair by pair")
def tally(context: Context) -> list[dict[str, Any]]:
    """`share` is that of the first column among the votes that were no tie, with its 95 % interval."""
    return votes.tally(context)


@router.get("/{comparison_id}", summary="One comparison")
def describe(context: Context, comparison_id: str) -> dict[str, Any]:
    """What was asked, the proof, and every answer with its tokens."""
    return comparisons.describe(context, comparison_id)


@router.delete("/{comparison_id}", status_code=204, summary="Delete it")
def remove(context: Context, comparison_id: str) -> None:
    """It cannot be brought back."""
    comparisons.remove(context, comparison_id)


@router.get("/{comparison_id}/download", summary="It as a file", response_class=Response)
def download(
    context: Context, comparison_id: str, form: Annotated[Literal["md", "json"], Query(alias="format")] = "md"
) -> Response:
    """Markdown to read or to pass on, or JSON that `POST /comparisons` takes apart from its dates and ids."""
    told = comparisons.describe(context, comparison_id)
    name, content = comparison_file.markdown_file(told) if form == "md" else comparison_file.json_file(told)
    kind = "text/markdown; charset=utf-8" if form == "md" else "application/json"
    return Response(content, media_type=kind, headers=attachment(name))
