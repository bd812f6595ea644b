"""The command lines of CI workflows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.docs.fences import command_lines


def steps_of_github(workflow: dict[Any, Any] | list[Any]) -> Iterator[list[str]]:
    """Of every `run` of every job of a workflow of GitHub Actions, or of steps alone."""
    alone = [{"steps": workflow}] if isinstance(workflow, list) else workflow["jobs"].values()
    for job in alone:
        for step in job["steps"]:
            for line in step.get("run", "").splitlines():
                yield from command_lines(line)


def steps_of_gitlab(pipeline: dict[Any, Any]) -> Iterator[list[str]]:
    """Of every `script` of every job of a pipeline of GitLab CI."""
    for job in pipeline.values():
        if isinstance(job, dict):
            for line in job.get("script", ()):
                yield from command_lines(line.replace("\n", " "))
