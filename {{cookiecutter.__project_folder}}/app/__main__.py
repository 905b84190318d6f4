"""`python -m app`: start the service, list its settings, or do what its storage needs done."""

import argparse
import sys

from app.core.config import FACTS, SettingsError, load_settings, settings_table
from app.storage.backends import COMMANDS


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code of the process, 2 for a command line or environment that is wrong."""
    described = {"serve": "serve requests (the default)", "settings": "list the settings"}
    described |= {name: text for name, (text, _) in COMMANDS.items()}
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description=f"{FACTS.service.title}. Configured by environment variables only: see `python -m app settings`.",
    )
    parser.add_argument(
        "command",
        nargs="?",
        default="serve",
        choices=tuple(described),
        help="; ".join(f"{name}: {text}" for name, text in described.items()),
    )
    command = parser.parse_args(arguments).command
    if command == "settings":
        sys.stdout.write(settings_table())
        return 0
    try:
        settings = load_settings()
        if command in COMMANDS:
            return COMMANDS[command][1](settings)
        # Imported late: a wrong environment is answered without loading the framework.
        from app.core.lifecycle import serve
        from app.main import create_app

        return serve(settings, create_app)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
