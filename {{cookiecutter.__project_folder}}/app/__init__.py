"""The service. `python -m app` starts it; `app.main.create_app` builds it."""
