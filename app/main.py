"""Puts the web role together: REST, the passage to the inference role, the page, and the guards around them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_swagger import patch_fastapi

from app.api import (
    answers,
    base_models,
    comparisons,
    datasets,
    events,
    health,
    jobs,
    many_rows,
    prefixes,
    snapshots,
    usage,
)
from app.api.errors import add_unknown_api_answer, install_error_answers
from app.auth import TokenAuth
from app.context import AppContext
from app.limits import BodyLimit
from app.proxy import InferenceProxy, proxy_router
from app.security import RequestGuard, ResponseHeaders
from app.services.dataset_files import sweep_left
from app.services.dataset_order import work_folder
from storage.artifacts import ArtifactStore
from storage.bases.catalog import sync_catalog
from storage.database import open_database
from storage.settings import Settings
from storage.tables.reader_process import ReaderProcesses

TITLE = "Prefix Studio"
DESCRIPTION = "Upload a table, train a prefix for a frozen language model, compare side by side, download it."
ROUTERS = (datasets, base_models, jobs, events, prefixes, answers, many_rows, snapshots, comparisons, usage, health)


def create_app(settings: Settings, *, page: bool = True) -> FastAPI:
    """The app of the web role, ready to be served.

    Args:
        settings: Where to find what is kept, and the access token.
        page: Whether the page is mounted beside REST.
    """
    readers = ReaderProcesses(keep_warm=page)
    context = AppContext(settings, open_database(settings), ArtifactStore(settings), readers)
    proxy = InferenceProxy(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Clients of /v1 may come before anyone has opened the list of base models.
        sync_catalog(context.database, settings)
        sweep_left(work_folder(context))
        readers.warm_up()
        async with proxy.open():
            yield
        readers.close()
        context.database.close()

    app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    patch_fastapi(app, redirect_from_root_to_docs=False, title=f"{TITLE}: REST")
    app.state.context = context
    install_error_answers(app)
    for module in ROUTERS:
        app.include_router(module.router, prefix="/api/v1")
    app.include_router(health.root_router)
    app.include_router(proxy_router(proxy))
    add_unknown_api_answer(app)
    if page:
        # Gradio takes two seconds to import; tests of REST go without.
        from app.ui.page import mount

        app = mount(app, context)
    _guard(app, settings)
    return app


def _guard(app: FastAPI, settings: Settings) -> None:
    """Adds the guards, innermost first: the last one added sees a request first."""
    app.add_middleware(BodyLimit, max_upload_bytes=settings.max_upload_bytes)
    if settings.token is not None:
        app.add_middleware(TokenAuth, token=settings.token)
    app.add_middleware(RequestGuard, host=settings.host, has_token=settings.token is not None)
    app.add_middleware(ResponseHeaders)
