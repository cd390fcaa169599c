#!/usr/bin/env bash
# pydantic-evals 2.62.0 and pydantic-ai-harness 0.62.0: installing either beside pydantic-ai-slim 2.68.0 takes the core
# back to 2.62.0 without an error, because both ask for that one release exactly.
#
# Why one would guess otherwise: the packages share a version scheme, and add-ons of a stable major usually name a range.
# What is seen: the version of the core before and after each install.
# What follows: an extra that names one of them is a downgrade for whoever has a newer core.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
for addon in pydantic-evals==2.62.0 pydantic-ai-harness==0.62.0; do
  python3 -m venv --clear env
  env/bin/pip -qq --disable-pip-version-check install pydantic-ai-slim==2.68.0
  before=$(env/bin/python -c 'from importlib.metadata import version; print(version("pydantic-ai-slim"))')
  env/bin/pip -qq --disable-pip-version-check install "$addon"
  after=$(env/bin/python -c 'from importlib.metadata import version; print(version("pydantic-ai-slim"))')
  echo "$addon: core $before -> $after"
  [ "$before $after" = "2.68.0 2.62.0" ] || { echo "the behaviour changed"; exit 1; }
done
