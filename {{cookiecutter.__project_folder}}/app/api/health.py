"""Probes: alive, ready, started. They answer GET and HEAD, and appear in no RED metric, span or access line."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse

router = APIRouter(prefix="/health", tags=["health"])


class Health(BaseModel):
    """The answer of a probe; `problem` says why it failed."""

    status: Literal["pass", "fail"]
    problem: str | None = None


@router.get("/live", response_model=Health)
async def live(request: Request) -> JSONResponse:
    """Whether the process answers at all. Touches nothing: a restart would not bring a dependency back."""
    return _answer(request, "live", None)


@router.get("/ready", response_model=Health, responses={503: {"model": Health}})
async def ready(request: Request) -> JSONResponse:
    """Whether to send requests here: started, not draining, and the dependencies serve."""
    return _answer(request, "ready", await request.app.state.readiness.problem())


@router.get("/startup", response_model=Health, responses={503: {"model": Health}})
async def startup(request: Request) -> JSONResponse:
    """Whether the service has started: the other probes count from then on."""
    return _answer(request, "startup", await request.app.state.readiness.startup_problem())


def _answer(request: Request, check: str, problem: str | None) -> JSONResponse:
    """The response of a probe, counted: 200, or 503 with the problem."""
    health = Health(status="fail" if problem else "pass", problem=problem)
    request.app.state.metrics.health_checks.labels(check, health.status).inc()
    return JSONResponse(
        health.model_dump(exclude_none=True),
        status_code=503 if problem else 200,
        headers={"Cache-Control": "no-store"},
    )
