"""REST without the rest of the web role: the routers of base models, prefixes and jobs around one context."""

from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api import answers, base_models, jobs, prefixes
from app.api.errors import install_error_answers
from app.context import AppContext


def rest_client(context: AppContext) -> TestClient:
    """A client of the routes under test."""
    app = FastAPI()
    app.state.context = context
    install_error_answers(app)
    for module in (base_models, prefixes, answers, jobs):
        app.include_router(module.router, prefix="/api/v1")
    return TestClient(app)
