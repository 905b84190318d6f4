"""`python -m demo`: generate the default service, run it, and show what one request leaves behind.

Needs Python and, on the first run, a package index. Everything that it makes lies in `.demo/`.
"""
