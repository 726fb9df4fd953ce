"""The page of a workflow in a real Chromium, used with the keyboard alone; screenshots: tests/output/workflow-*.png."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, keep_for_docs
from conftest import REPO
from workflowserver import Endpoint, Reply, Server, serving, wait_until

SHOTS = REPO / "tests" / "output"
EXAMPLES = REPO / "examples" / "workflows"
TYPES = """
schema_version: "1.0"
flow: {name: "<b>types</b> & more", version: "2.1", description: "One input of each kind."}
state:
  fields:
    topic: {type: str, required: true, description: What to write about}
    count: {type: int, required: true}
    ratio: {type: float, default: 0.5}
    loud: {type: bool, default: true}
    tags: {type: "list[str]", default: [a]}
    answer: {type: str}
nodes: [{id: say, prompt: "{topic} {count} {ratio} {loud} {tags}", outputs: [answer], output_schema: {type: str}}]
edges: [{from: START, to: say}, {from: say, to: END}]
config: {llm: {model: m}, execution: {max_retries: 0}}
"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    made = Browser(tmp_path)
    yield made
    made.close()


def focus_and_type(browser: Browser, name: str, text: str) -> None:
    browser.tab_to(f"#in-{name}")
    browser.evaluate("document.activeElement.select && document.activeElement.select()")
    browser.write(text)


def check_quiet(browser: Browser, server: Server) -> None:
    """Check that the page loads nothing from other hosts and that its console is empty."""
    assert all(url.startswith((server.url, "data:", "about:")) for url in browser.requests), browser.requests
    assert browser.problems == []


def test_a_run_is_started_with_the_keyboard_alone(tmp_path: Path, endpoint: Endpoint, browser: Browser) -> None:
    endpoint.behave = lambda prompt: Reply(delay=1.2)
    with serving(tmp_path, endpoint, (EXAMPLES / "review_loop.yaml").read_text()) as server:
        browser.open(server.url)
        browser.wait_for("!!document.querySelector('#in-topic')")
        browser.wait_for("document.querySelector('#ready').textContent === 'ready'")
        focus_and_type(browser, "topic", "green tea")
        focus_and_type(browser, "depth", "long")
        browser.tab_to("#go")
        browser.press("Enter")
        browser.wait_for("document.querySelector('#state')?.textContent.startsWith('running: write_draft')")
        browser.save_screenshot(SHOTS / "workflow-running.png")
        browser.wait_for("document.querySelector('#state')?.dataset.status === 'completed'")
        assert browser.evaluate("[...document.querySelectorAll('#outputs dt')].map(one => one.textContent)") == [
            "draft",
            "score",
            "approved",
        ]
        assert browser.evaluate("document.querySelectorAll('#result ol li').length") == 3
        browser.wait_for("document.querySelectorAll('#jobs tr').length === 1")
        browser.save_screenshot(SHOTS / "workflow-done.png")
        keep_for_docs(SHOTS / "workflow-done.png", "workflow.png")
        browser.save_screenshot(SHOTS / "workflow-dark.png", dark=True)
        browser.tab_to("#jobs button")
        browser.press("Enter")
        browser.wait_for("document.querySelector('#state')?.textContent.startsWith('completed in')")
        assert browser.evaluate("document.activeElement.matches('#jobs button')")
        check_quiet(browser, server)


def test_the_form_takes_every_kind_of_input_and_shows_every_kind_of_mistake(
    tmp_path: Path, endpoint: Endpoint, browser: Browser
) -> None:
    with serving(tmp_path, endpoint, TYPES) as server:
        browser.open(server.url)
        browser.wait_for("!!document.querySelector('#in-topic')")
        assert browser.evaluate("document.querySelector('h1').textContent") == "<b>types</b> & more"
        browser.tab_to("#go")
        browser.press("Enter")
        browser.wait_for("document.activeElement.id === 'in-topic'")
        assert browser.evaluate("document.querySelectorAll('[aria-invalid=true]').length") == 2
        focus_and_type(browser, "topic", 'te"a <img src=x onerror=alert(1)>')
        focus_and_type(browser, "count", "1.5")
        focus_and_type(browser, "tags", "[no json")
        browser.tab_to("#go")
        browser.press("Enter")
        browser.wait_for("document.querySelector('#in-tags').getAttribute('aria-invalid') === 'true'")
        browser.save_screenshot(SHOTS / "workflow-mistakes.png")
        browser.evaluate("document.querySelector('#in-tags').focus()")
        focus_and_type(browser, "tags", '["x", "y"]')
        browser.tab_to("#go")
        browser.press("Enter")
        # The server's message about a number that is not an integer appears at its field.
        browser.wait_for("document.querySelector('#in-count-wrong').textContent.includes('integer')")
        assert browser.evaluate("document.activeElement.id") == "in-count"
        focus_and_type(browser, "count", "3")
        browser.tab_to("#go")
        browser.press("Enter")
        browser.wait_for("document.querySelector('#state')?.dataset.status === 'completed'")
        assert endpoint.calls == ['te"a <img src=x onerror=alert(1)> 3 0.5 true ["x", "y"]']
        assert "<img src=x" in browser.evaluate("document.querySelector('#outputs pre').textContent")
        assert browser.evaluate("document.querySelectorAll('#outputs img').length") == 0
        browser.problems = [text for text in browser.problems if "422" not in text]
        check_quiet(browser, server)


def test_the_page_shows_a_failed_and_a_cancelled_run(tmp_path: Path, endpoint: Endpoint, browser: Browser) -> None:
    endpoint.behave = lambda prompt: Reply(delay=20) if "slow" in prompt else Reply(status=401, raw=b'{"error": "bad key"}')
    with serving(tmp_path, endpoint, (EXAMPLES / "linear.yaml").read_text()) as server:
        browser.open(server.url)
        browser.wait_for("!!document.querySelector('#in-topic')")
        focus_and_type(browser, "topic", "tea")
        browser.tab_to("#go")
        browser.press("Enter")
        browser.wait_for("document.querySelector('#state')?.dataset.status === 'failed'")
        assert "bad key" in browser.evaluate("document.querySelector('#result').textContent")
        browser.save_screenshot(SHOTS / "workflow-failed.png")
        browser.evaluate("document.querySelector('#in-topic').focus()")
        focus_and_type(browser, "topic", "slow")
        browser.tab_to("#go")
        browser.press("Enter")
        browser.wait_for("document.querySelector('#state')?.dataset.status === 'running'")
        browser.tab_to("#result button")
        browser.press("Enter")
        browser.wait_for("document.querySelector('#state')?.dataset.status === 'cancelled'")
        wait_until(lambda: server.client.get("/health").json()["jobs_running"] == 0, 5)
        check_quiet(browser, server)


def test_the_api_page_loads_nothing_from_other_hosts(tmp_path: Path, endpoint: Endpoint, browser: Browser) -> None:
    with serving(tmp_path, endpoint, (EXAMPLES / "extract.yaml").read_text()) as server:
        browser.open(f"{server.url}/docs")
        browser.wait_for("document.querySelectorAll('section').length === 10")
        text = browser.evaluate("document.body.innerText")
        assert f"curl -sS -X POST '{server.url}/run'" in text and "Idempotency-Key" in text
        browser.save_screenshot(SHOTS / "workflow-api.png")
        check_quiet(browser, server)
