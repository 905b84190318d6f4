"""The answers are an API: what is asked, in which order, with which defaults, and what is refused.

People record answers in scripts and in `.cruft.json`; a changed name, choice or default breaks them.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

import pre_gen_project
import pytest
from conftest import ROOT, Bake, Run
from hostile import REFUSED_TEXT

TEMPLATE = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
PROMPTS = {name: default for name, default in TEMPLATE.items() if not name.startswith("_")}
LABELS = TEMPLATE["__prompts__"]

PINNED = [
    ("project_name", "SRE Demo API"),
    ("project_slug", "sre-demo-api"),
    ("description", "An HTTP API that is observable, has an error budget and is ready to be on call for."),
    ("organization", "example-org"),
    ("repository_url", "https://github.com/example-org/sre-demo-api"),
    ("image_repository", "ghcr.io/example-org/sre-demo-api"),
    ("domain", "example.com"),
    ("team", "platform"),
    ("ci_system", ["github-actions", "jenkins", "both", "none"]),
    ("deployment", ["argocd", "kubectl"]),
    ("release_strategy", ["rolling", "canary"]),
    ("production_image", ["distroless", "standard"]),
    ("exposure", ["gateway-api", "ingress", "load-balancer", "cluster-internal"]),
    ("database", ["postgresql", "none"]),
    ("slo_availability", "99.9"),
    ("slo_latency_ms", "300"),
    ("observability_stack", True),
    ("load_tests", True),
    ("chaos_drills", True),
    ("license", ["Proprietary", "MIT", "Apache-2.0"]),
]

# What is right and wrong at the edges of each rule; free text has its own list in hostile.py.
RIGHT = [
    ("project_name", "a" * 60),
    ("project_name", "Ünïcode 🚀 שלום"),
    ("project_slug", "a"),
    ("project_slug", "a1-b2-3"),
    ("project_slug", "a" * 40),
    ("description", "d" * 200),
    ("organization", "a-1"),
    ("organization", "1" * 39),
    ("repository_url", "https://git.example.com:8443/group/sub.group/~user/re_po-1"),
    ("repository_url", "https://git/" + "r" * 188),
    ("image_repository", "registry.example.com:5000/group/sub_group/re__po-1.x"),
    ("image_repository", "localhost/a"),
    ("domain", "a.io"),
    ("domain", "xn--bcher-kva.example"),
    ("domain", "d" * 63 + ".example.com"),
    ("team", "a_b-1"),
    ("team", "t" * 39),
    ("slo_availability", "95"),
    ("slo_availability", "95.0"),
    ("slo_availability", "99.975"),
    ("slo_availability", "99.99"),
    ("slo_latency_ms", "5"),
    ("slo_latency_ms", "10000"),
]
WRONG = [
    ("project_name", "a" * 61),
    ("project_slug", ""),
    ("project_slug", "a" * 41),
    ("project_slug", "1a"),
    ("project_slug", "-a"),
    ("project_slug", "a-"),
    ("project_slug", "a--b"),
    ("project_slug", "A"),
    ("project_slug", "a_b"),
    ("project_slug", "a.b"),
    ("project_slug", "on"),
    ("project_slug", "null"),
    ("project_slug", "a/b"),
    ("project_slug", "../a"),
    ("project_slug", "é"),
    ("project_slug", "a\n"),
    ("description", "d" * 201),
    ("organization", ""),
    ("organization", "Example"),
    ("organization", "a--b"),
    ("organization", "-a"),
    ("organization", "a-"),
    ("organization", "a_b"),
    ("organization", "a/b"),
    ("organization", "a\n"),
    ("organization", "1" * 40),
    ("repository_url", ""),
    ("repository_url", "http://git.example.com/a"),
    ("repository_url", "git@git.example.com:a/b"),
    ("repository_url", "ssh://git@git.example.com/a/b"),
    ("repository_url", "https://git.example.com"),
    ("repository_url", "https://git.example.com/"),
    ("repository_url", "https://git.example.com/a/"),
    ("repository_url", "https://git.example.com//a"),
    ("repository_url", "https://git.example.com/a/../b"),
    ("repository_url", "https://git.example.com/a.git"),
    ("repository_url", "https://user@git.example.com/a"),
    ("repository_url", "https://user:token@git.example.com/a"),  # pragma: allowlist secret - made up
    ("repository_url", "https://git.example.com/a?b=c"),
    ("repository_url", "https://git.example.com/a#b"),
    ("repository_url", "https://git.example.com/a b"),
    ("repository_url", 'https://git.example.com/a"b'),
    ("repository_url", "https://git.example.com/a\n"),
    ("repository_url", "https://גיט.example.com/a"),
    ("repository_url", "https://git..example.com/a"),
    ("repository_url", "https:///a"),
    ("repository_url", "https://git/" + "r" * 189),
    ("image_repository", ""),
    ("image_repository", "example-org"),
    ("image_repository", "https://ghcr.io/example-org/a"),
    ("image_repository", "ghcr.io/Example/a"),
    ("image_repository", "ghcr.io/example-org/a:1.0"),
    ("image_repository", "ghcr.io/example-org/a@sha256:" + "0" * 64),
    ("image_repository", "ghcr.io/example-org/a/"),
    ("image_repository", "ghcr.io//a"),
    ("image_repository", "ghcr.io/a b"),
    ("image_repository", "ghcr.io/a\n"),
    ("domain", ""),
    ("domain", "localhost"),
    ("domain", "Example.com"),
    ("domain", ".example.com"),
    ("domain", "example.com."),
    ("domain", "exa_mple.com"),
    ("domain", "a..com"),
    ("domain", "-a.com"),
    ("domain", "d" * 64 + ".com"),
    ("domain", "10.0.0.1"),
    ("domain", "https://example.com"),
    ("domain", "example.com\n"),
    ("team", ""),
    ("team", "_a"),
    ("team", "a_"),
    ("team", "A"),
    ("team", "a b"),
    ("team", "a\n"),
    ("team", "t" * 40),
    ("slo_availability", ""),
    ("slo_availability", "94.999"),
    ("slo_availability", "99.991"),
    ("slo_availability", "99.9900"),
    ("slo_availability", "100"),
    ("slo_availability", "nan"),
    ("slo_availability", "99,9"),
    ("slo_availability", "99.9%"),
    ("slo_availability", "099.9"),
    ("slo_availability", "99."),
    ("slo_availability", ".99"),
    ("slo_availability", "+99"),
    ("slo_availability", "9_9"),
    ("slo_availability", "9.9e1"),
    ("slo_availability", "٩٩"),
    ("slo_availability", "99.9\n"),
    ("slo_latency_ms", ""),
    ("slo_latency_ms", "4"),
    ("slo_latency_ms", "10001"),
    ("slo_latency_ms", "0300"),
    ("slo_latency_ms", "+300"),
    ("slo_latency_ms", "-300"),
    ("slo_latency_ms", "1_000"),
    ("slo_latency_ms", "300.0"),
    ("slo_latency_ms", "3e2"),
    ("slo_latency_ms", "٣٠٠"),
    ("slo_latency_ms", "300 ms"),
    ("slo_latency_ms", "300\n"),
]
REFUSED = WRONG + [(name, text) for name in ("project_name", "description") for text in REFUSED_TEXT.values()]

# Names of folders that a template which trusts them would make, here or elsewhere.
ESCAPING_SLUGS = [
    "",
    ".",
    "..",
    "a/b",
    "a/b/c",
    "../a",
    "../../a",
    "/tmp/a",
    "a\\b",
    "con?",
    "a:b",
    "~",
    "a" * 300,
]


def test_prompts_their_order_choices_and_defaults_are_what_users_rely_on(defaults: dict[str, Any]) -> None:
    asked = [(name, raw if isinstance(raw, list) else defaults[name]) for name, raw in PROMPTS.items()]

    assert asked == PINNED


def test_every_prompt_has_a_label_for_people() -> None:
    assert list(LABELS) == list(PROMPTS)
    assert all(label["__prompt__"] if isinstance(label, dict) else label for label in LABELS.values())


@pytest.mark.parametrize("prompt", [name for name, raw in PROMPTS.items() if isinstance(raw, list)])
def test_every_choice_has_a_label_for_people(prompt: str) -> None:
    assert list(LABELS[prompt]) == ["__prompt__", *PROMPTS[prompt]]
    assert all(LABELS[prompt].values())


def test_every_free_text_prompt_has_one_rule() -> None:
    free_text = [name for name, raw in PROMPTS.items() if isinstance(raw, str)]

    assert sorted(rule.prompt for rule in pre_gen_project.RULES) == sorted(free_text)


@pytest.mark.parametrize("rule", pre_gen_project.RULES, ids=lambda rule: rule.prompt)
def test_the_example_of_each_rule_passes_it(rule: pre_gen_project.Rule, defaults: dict[str, Any]) -> None:
    assert not pre_gen_project.refusal(defaults | {rule.prompt: rule.example})


def test_the_defaults_pass(defaults: dict[str, Any]) -> None:
    assert not pre_gen_project.refusal(defaults)


@pytest.mark.parametrize(("prompt", "answer"), RIGHT)
def test_a_right_answer_passes(prompt: str, answer: str, defaults: dict[str, Any]) -> None:
    assert not pre_gen_project.refusal(defaults | {prompt: answer})


@pytest.mark.parametrize(("prompt", "answer"), REFUSED)
def test_a_wrong_answer_is_refused_with_its_rule_and_an_example(
    prompt: str, answer: str, defaults: dict[str, Any]
) -> None:
    message = pre_gen_project.refusal(defaults | {prompt: answer})

    (rule,) = [rule for rule in pre_gen_project.RULES if rule.prompt == prompt]
    assert f"  {prompt}: {pre_gen_project.shown(answer)}\n" in message
    assert rule.text in message
    assert rule.example in message
    assert message.count("must be:") == 1


# A user's own Cookiecutter settings are YAML, where `no` is not text.
@pytest.mark.parametrize("answer", [False, None, 300, ["a"], {"a": "b"}])
def test_an_answer_that_is_not_text_is_refused(answer: object, defaults: dict[str, Any]) -> None:
    assert "team: " in pre_gen_project.refusal(defaults | {"team": answer})


@pytest.mark.parametrize("answer", REFUSED_TEXT.values(), ids=REFUSED_TEXT)
def test_a_refused_answer_is_shown_without_what_could_confuse_a_terminal(answer: str) -> None:
    shown = pre_gen_project.shown(answer)

    assert shown.isprintable()
    assert len(shown) <= pre_gen_project.WIDEST


def test_a_very_long_answer_is_shown_shortened() -> None:
    assert len(pre_gen_project.shown("a" * 10_000)) == pre_gen_project.WIDEST


def test_all_wrong_answers_are_reported_at_once_and_nothing_is_left(run: Run, tmp_path: Path) -> None:
    wrong = {
        "project_name": "a\tb",
        "project_slug": "../../escaped",
        "description": "a\u202eb",
        "organization": "Not Lower",
        "repository_url": "https://user:token@git.example.com/a",  # pragma: allowlist secret - made up
        "image_repository": "ghcr.io/Not Lower/a:latest",
        "domain": "localhost",
        "team": "_",
        "slo_availability": "100",
        "slo_latency_ms": "1_000",
    }
    output = tmp_path / "one" / "two"

    result = run("cookiecutter", ROOT, "--no-input", "-o", output, *(f"{k}={v}" for k, v in wrong.items()))

    assert result.returncode != 0
    assert f"Answers to correct: {len(wrong)}" in result.stderr
    for prompt, answer in wrong.items():
        assert f"  {prompt}: {answer!r}\n" in result.stderr
    assert [path for path in tmp_path.rglob("*") if path not in {output, output.parent}] == []


@pytest.mark.parametrize("slug", ESCAPING_SLUGS, ids=lambda slug: repr(slug[:20]))
def test_a_slug_that_is_no_folder_name_makes_no_folder_anywhere(
    slug: str, cookies: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = cookies.bake(extra_context={"project_slug": slug}, template=str(ROOT))

    assert result.exit_code != 0
    assert "project_slug: " in capfd.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["cookies", "bake00"]


@pytest.mark.parametrize("slug", [answer for prompt, answer in RIGHT if prompt == "project_slug"])
def test_the_folder_has_the_name_of_the_slug(slug: str, bake: Bake) -> None:
    assert bake(project_slug=slug).name == slug


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Payments", "payments"),
        ("Größe & Co.", "grosse-co"),
        ("a" * 39 + " b", "a" * 39),
        ("a" * 40 + " b", "a" * 40),
        ("a_b", "a-b"),
        ("  -- Orders --", "orders"),
    ],
)
def test_the_slug_offered_for_a_name_is_a_label(name: str, slug: str, cookies: Any) -> None:
    # The name itself may be refused: what is judged here is the offer.
    assert cookies.bake(extra_context={"project_name": name}, template=str(ROOT)).context["project_slug"] == slug


def test_a_name_that_starts_with_a_digit_needs_a_slug_of_its_own(cookies: Any, bake: Bake) -> None:
    assert cookies.bake(extra_context={"project_name": "3scale"}, template=str(ROOT)).exit_code != 0
    assert bake(project_name="3scale", project_slug="threescale").name == "threescale"


def test_cookiecutter_refuses_a_choice_that_is_not_offered(run: Run, tmp_path: Path) -> None:
    result = run("cookiecutter", ROOT, "--no-input", "-o", tmp_path, "license=GPL")

    assert result.returncode != 0
    assert "GPL" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_person_sees_the_labels_and_can_accept_or_change_each_answer(run: Run, tmp_path: Path) -> None:
    typed = {
        "project_name": "Shop API",
        "organization": "acme",
        "database": "2",
        "slo_latency_ms": "250",
        "observability_stack": "n",
        "chaos_drills": "n",
        "license": "3",
    }

    result = run("cookiecutter", ROOT, "-o", tmp_path, stdin="".join(f"{typed.get(name, '')}\n" for name in PROMPTS))

    assert result.returncode == 0, result.stderr
    for label in LABELS.values():
        for text in label.values() if isinstance(label, dict) else [label]:
            assert text in result.stdout
    facts = tomllib.loads((tmp_path / "shop-api" / "app" / "service.toml").read_text(encoding="utf-8"))
    assert facts["service"]["title"] == "Shop API"
    assert facts["service"]["repository"] == "https://github.com/acme/shop-api"
    assert facts["slo"]["latency_threshold_ms"] == 250
    assert (tmp_path / "shop-api" / "NOTICE").is_file()
    assert not (tmp_path / "shop-api" / "observability" / "loki").exists()
    assert not (tmp_path / "shop-api" / "tests" / "chaos").exists()
    assert not (tmp_path / "shop-api" / "migrations").exists()


def test_a_typed_jinja_tag_is_refused_and_not_run(run: Run, tmp_path: Path) -> None:
    # A typed answer reaches the hook as it is; the next `cruft update` would run it.
    result = run("cookiecutter", ROOT, "-o", tmp_path, stdin="{{ 6 * 7 }}\nanswer\n" + "\n" * (len(PROMPTS) - 2))

    assert result.returncode != 0
    assert "project_name: '{{ 6 * 7 }}'" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_the_reasons_can_be_read_on_any_terminal(encoding: str, run: Run, tmp_path: Path) -> None:
    answers = ("project_name=שלום\u202e", "team=צוות")

    result = run(
        "cookiecutter",
        ROOT,
        "--no-input",
        "-o",
        tmp_path,
        *answers,
        env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )

    assert result.returncode != 0
    assert "UnicodeEncodeError" not in result.stderr
    assert "Answers to correct: 2" in result.stderr
