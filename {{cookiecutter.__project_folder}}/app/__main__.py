"""`python -m app`: start the service, ask for its health, list its settings, or do what its storage needs done."""

import gc
import os
import signal
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code of the process, 2 for a command line or environment that is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Imported late, here and below: a signal is heeded before, a container's health check costs next to nothing, and a
    # wrong environment is answered without the framework.
    if arguments[:1] == ["health"]:
        from app.core.probe import health

        return health(arguments[1:])
    import argparse

    from app.core.config import FACTS, SettingsError, load_settings, settings_table
    from app.storage.backends import COMMANDS

    described = {
        "serve": "serve requests (the default)",
        "health": "ask the service on this machine whether it is ready (or: health live, health startup)",
        "settings": "list the settings",
    }
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
            gc.enable()
            return COMMANDS[command][1](settings)
        from app.core.lifecycle import serve
        from app.main import create_app

        return serve(settings, create_app)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _leave_at_once() -> None:
    """Let SIGINT and SIGTERM end the process at once; `core/lifecycle.py` takes them over before anything is served.

    The kernel would do so by itself, but not to the first process of a container, which gets only what it handles
    (pid_namespaces(7)). A service that has not begun has nothing to end; a command that was cut short is a failure.
    """
    serves = sys.argv[1:] in ([], ["serve"])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os._exit(0 if serves else 128 + number))


if __name__ == "__main__":
    _leave_at_once()
    # Next to nothing of what a start makes is garbage, and to look for it costs 90 ms. Until `core/lifecycle.py`.
    gc.disable()
    sys.exit(main())
