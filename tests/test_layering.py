"""The layers of docs/architecture.md, read from the imports of every file."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "storage", "worker")

TORCH = {"torch", "transformers", "accelerate", "peft"}
DATABASE = {"sqlalchemy", "alembic"}
WEB = {"fastapi", "starlette", "uvicorn", "gradio", "gradio_client", "httpx"}
WORKER_SEEN_BY_APP = {
    f"worker.engine.{name}"
    for name in (
        "errors",
        "recipe",
        "rendering",
        "conversations",
        "automatic",
        "families",
        "memory",
        "prefix_file",
        "quantisation",
    )
} | {"worker.devices", *(f"worker.evaluation.{name}" for name in ("metrics", "bootstrap", "tally", "trimming"))}
"""What the page and REST read from the engine, what the machine has, and by what answers are scored; none of it brings
torch along."""


def imported_names(source: str) -> set[str]:
    """Every module that a source imports, wherever in it; `from a.b import c` counts as both `a.b` and `a.b.c`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files_under(folder: str) -> Iterator[tuple[str, set[str]]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield str(path.relative_to(ROOT)), imported_names(path.read_text(encoding="utf-8"))


def offenders(folder: str, forbidden: set[str], *, but: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """Files beneath a folder that import a forbidden top-level package."""
    found = {}
    for name, imported in files_under(folder):
        wrong = {module for module in imported if module.split(".")[0] in forbidden}
        if wrong and not name.startswith(but):
            found[name] = wrong
    return found


def test_storage_imports_neither_app_nor_worker() -> None:
    assert offenders("storage", {"app", "worker"} | TORCH | WEB - {"httpx"}) == {}


def test_only_storage_imports_the_database_library() -> None:
    assert {**offenders("app", DATABASE), **offenders("worker", DATABASE)} == {}


def test_engine_knows_no_storage_no_app_and_no_web() -> None:
    assert offenders("worker/engine", {"storage", "app"} | DATABASE | WEB) == {}


def test_evaluation_knows_no_storage_no_app_and_no_web() -> None:
    assert offenders("worker/evaluation", {"storage", "app"} | DATABASE | WEB) == {}


def test_worker_does_not_import_app() -> None:
    assert offenders("worker", {"app"}) == {}


def test_app_imports_no_torch() -> None:
    assert offenders("app", TORCH) == {}


def test_only_the_page_imports_gradio() -> None:
    page = ("app/ui/", "app/tabs/")
    assert {**offenders("app", {"gradio"}, but=page), **offenders("worker", {"gradio"})} == {}


def test_app_sees_only_the_light_part_of_the_engine() -> None:
    heavy = {}
    for name, imported in files_under("app"):
        modules = {module for module in imported if module.startswith("worker.")}
        # What is imported from an allowed module carries its name in front.
        wrong = {
            module
            for module in modules - {"worker.engine", "worker.evaluation"}
            if not {module, module.rpartition(".")[0]} & WORKER_SEEN_BY_APP
        }
        if wrong:
            heavy[name] = wrong
    assert heavy == {}


def test_package_markers_are_empty() -> None:
    full = [path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py") if path.read_bytes()]
    assert full == []


def test_launcher_script_holds_nothing_above_its_guard() -> None:
    """A spawned child runs app.py again: what stands above the guard would run in every child."""
    docstring, *statements = ast.parse((ROOT / "app.py").read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert [type(statement) for statement in statements] == [ast.If]


def test_imports_are_seen_wherever_they_stand() -> None:
    source = "def load():\n    from torch.nn import Linear\n    import gradio.themes as themes\n"
    assert imported_names(source) == {"torch.nn", "torch.nn.Linear", "gradio.themes"}


@pytest.mark.parametrize("module", ["app.main", "app.launcher", "worker.dispatcher", "storage.migrate"])
def test_role_starts_without_torch(module: str) -> None:
    """Torch costs seconds of start and hundreds of megabytes in each process that imports it."""
    program = f"import sys, {module}; sys.exit(int('torch' in sys.modules))"
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr or f"{module} brings torch along"


@pytest.mark.parametrize("module", sorted(WORKER_SEEN_BY_APP))
def test_light_part_of_the_engine_brings_no_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit(int('torch' in sys.modules))"
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr or f"{module} brings torch along"
