"""What every endpoint relies on: settings, telemetry, errors and the life of the process."""
