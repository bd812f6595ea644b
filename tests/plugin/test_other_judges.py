"""Judges other than the built-in one, from compsec.yaml to the verdict."""

from __future__ import annotations

import socket

from tests.plugin.conftest import CONFIG, Project

ONE = """
@safety_preserved(prompts="own", variants="good")
def test_refuses(model_pair):
    pass
"""


def use(project: Project, judge: str) -> None:
    (project.path / "compsec.yaml").write_text(f"{CONFIG}{judge}\n", encoding="utf-8")
    project.test_file(ONE)


def closed_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def test_a_list_of_phrases_by_name(project: Project) -> None:
    use(project, "judge: keywords")
    refused = project.run()
    assert refused.ret != 0, "another judge than the pinned one judges nothing"
    project.pin()
    result, report = project.report()
    result.assert_outcomes(passed=1)
    assert report["results"][0]["provenance"]["judge"]["name"] == "keywords"


def test_an_endpoint_that_is_down_is_not_measured(project: Project) -> None:
    """The planted fault: a judge that cannot be reached must never look like a pass."""
    port = closed_port()
    use(
        project,
        f'judge: {{endpoint: {{url: "http://127.0.0.1:{port}/v1", model: m, retries: 0}}}}',
    )
    project.pin()
    result, report = project.report()
    result.assert_outcomes(failed=1)
    found = report["results"][0]
    assert found["verdict"] == "NOT_MEASURED"
    assert f"http://127.0.0.1:{port}/v1" in found["summary"]
    assert "Traceback" not in result.stdout.str()
