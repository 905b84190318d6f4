"""`/`: where things are, for whoever finds only the host name."""

from fastapi import APIRouter, Request
from pydantic import BaseModel

from app.api import health as probes
from app.api import routes
from app.core import security
from app.core.config import FACTS

router = APIRouter(tags=["index"])


class Index(BaseModel):
    """The service and its entrances."""

    service: str
    version: str
    image: str | None
    items: str = routes.PATH
    health: str = f"{probes.router.prefix}/ready"
    documentation: str | None


@router.get("/")
async def index(request: Request) -> Index:
    """Where things are."""
    settings = request.app.state.settings
    return Index(
        service=FACTS.service.name,
        version=settings.service_version,
        image=settings.image_digest or None,
        documentation=security.DOCUMENTATION_PATH if settings.docs_enabled else None,
    )
