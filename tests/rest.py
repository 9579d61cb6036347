"""REST without the rest of the web role: some routers around one context."""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from app.api import base_models
from app.context import AppContext
from storage.errors import StudioError
from worker.engine.errors import EngineError


def rest_client(context: AppContext) -> TestClient:
    """A client of the routes under test."""
    app = FastAPI()
    app.state.context = context

    @app.exception_handler(StudioError)
    def studio(request: Request, error: StudioError) -> JSONResponse:
        return JSONResponse({"error": {"code": error.code, "message": error.message}}, error.http_status)

    @app.exception_handler(EngineError)
    def engine(request: Request, error: EngineError) -> JSONResponse:
        return JSONResponse({"error": {"code": error.code, "message": error.message}}, 422)

    app.include_router(base_models.router, prefix="/api/v1")
    return TestClient(app)
