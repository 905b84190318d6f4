"""Answers that break templates which paste text into files: legitimate ones must work, others are refused.

One list for every test that needs it, here and in the checks of generated services.
"""

# Legitimate, however unusual: every file must still parse, and hold exactly these words.
ACCEPTED: dict[str, dict[str, str]] = {
    "double quotes": {"project_name": 'The "Best" API', "description": 'Says "hello" and """goodbye""".'},
    "single quotes": {"project_name": "O'Brien's API", "description": "It's '''quoted''' here."},
    "backslashes": {"project_name": r"C:\new\table API", "description": "Ends in a backslash \\"},
    "backslash before quote": {"project_name": r"An \" API", "description": r"\\\" and \u0041 and \x"},
    "shell": {"project_name": "$(id) `id` ${HOME} API", "description": "a; b && c | d > e < f * ? ~ ! $1 $$"},
    "percent": {"project_name": "100% %s %(name)s API", "description": "99 % of 5 %d"},
    "comment": {"project_name": "#x API", "description": "# not a comment #"},
    "yaml list": {"project_name": "- a API", "description": "- b"},
    "yaml mapping": {"project_name": ": b API", "description": "key: value, {a: b}, [c]"},
    "yaml anchors": {"project_name": "&a *b API", "description": "!!python/object %TAG @x `y"},
    "yaml words": {"project_name": "no", "project_slug": "nope", "description": "null"},
    "words of languages": {
        "project_name": "class",
        "description": "true",
        "team": "null",
        "organization": "on",
    },
    "digits only": {"description": "12", "team": "1e3", "organization": "007"},
    "markup": {"project_name": "<script>alert(1)</script> & co", "description": "[a](b) | *c* | <!-- d -->"},
    "closing braces": {"project_name": "a }} b %} c #} API", "description": "a } b { c } {"},
    "emoji": {"project_name": "Rocket 🚀 API", "description": "Café ☕ naïve 🦊"},
    "hebrew": {"project_name": "שירות הזמנות", "description": "שומר את ההזמנות של החנות."},
    "arabic": {"project_name": "خدمة الطلبات", "description": "تحفظ طلبات المتجر."},
    "chinese": {"project_name": "订单服务", "description": "保存商店的订单。"},
    "longest": {
        "project_name": "N" * 60,
        "project_slug": "s" * 40,
        "description": "d" * 200,
        "organization": "o" * 39,
        "team": "t" * 39,
        "repository_url": "https://git.example.com:8443/" + "r" * 171,
    },
    "shortest": {
        "project_name": "s",
        "description": "d",
        "organization": "o",
        "team": "t",
        "repository_url": "https://git/r",
        "slo_availability": "95",
        "slo_latency_ms": "5",
    },
}

# Text that no prompt takes.
REFUSED_TEXT: dict[str, str] = {
    "empty": "",
    "blank": " ",
    "leading space": " a",
    "trailing space": "a ",
    "line feed": "a\nb",
    "trailing line feed": "a\n",
    "carriage return": "a\rb",
    "tab": "a\tb",
    "null": "a\0b",
    "escape": "a\x1b[31mb",
    "delete": "a\x7fb",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "no-break space": "a\u00a0b",
    "bidirectional override": "a\u202eb",
    "bidirectional isolate": "a\u2066b",
    "zero width space": "a\u200bb",
    "byte order mark": "\ufeffa",
    "lone surrogate": "a\udc80b",
    "jinja expression": "a {{ b }}",
    "jinja statement": "a {% b %}",
    "jinja comment": "a {# b #}",
    "jinja raw": "{%raw%}",
}
