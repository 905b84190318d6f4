"""The facts of `app/service.toml` for the other tools: the service's reader needs more than the standard library."""

import tomllib
from typing import Any

from tools.compose import ROOT

FACTS: dict[str, dict[str, Any]] = tomllib.loads((ROOT / "app" / "service.toml").read_text(encoding="utf-8"))
