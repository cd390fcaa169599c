"""Every task of a program in Flyte's wire form, made without a cluster: `python -m agentkit.pipeline.wire FILE`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from agentkit.pipeline.proof import load


def main(file: str) -> None:
    """One line of JSON on standard output: each task with what a cluster would be told of it."""
    path = Path(file)
    module = load(path)
    sys.stdout.write(f"\n{json.dumps(serialise(module.__dict__, path.parent))}\n")


def serialise(names: dict[str, Any], root: Path) -> dict[str, Any]:
    """By task: types, resources, retries, secrets, and the version of the cache."""
    # Flyte's own way to its wire form has no public name; the check runs it, the exported program does not.
    models = importlib.import_module("flyte.models")
    serde = importlib.import_module("flyte._internal.runtime.task_serde")
    images = importlib.import_module("flyte._internal.imagebuild.image_builder")
    flyte: Any = names["flyte"]
    environments = {value.name for value in names.values() if isinstance(value, flyte.TaskEnvironment)}
    context = models.SerializationContext(
        project="p",
        domain="d",
        version="v1",
        org="o",
        image_cache=images.ImageCache(image_lookup=dict.fromkeys(environments, "image:1")),
        root_dir=root.resolve(),
        code_bundle=models.CodeBundle(tgz="s3://bundle.tgz", computed_version="v1"),
    )
    tasks = {
        task.name: task
        for value in names.values()
        if isinstance(value, flyte.TaskEnvironment)
        for task in value.tasks.values()
    }
    return {
        name: _describe_template(serde.translate_task_to_wire(task, context).task_template)
        for name, task in tasks.items()
    }


def _describe_template(template: Any) -> dict[str, Any]:
    interface = template.interface
    return {
        "inputs": _variables(interface.inputs),
        "outputs": _variables(interface.outputs),
        "retries": template.metadata.retries.retries,
        "cached": template.metadata.discoverable,
        "version": template.metadata.discovery_version,
        "resources": {str(entry.name): entry.value for entry in template.container.resources.requests},
        "secrets": [secret.key for secret in template.security_context.secrets],
    }


def _variables(listed: Any) -> dict[str, str]:
    found = listed.variables
    entries = found.items() if hasattr(found, "items") else ((entry.key, entry.value) for entry in found)
    return {name: str(variable.type).strip().replace("\n", " ")[:120] for name, variable in entries}


if __name__ == "__main__":
    main(sys.argv[1])
