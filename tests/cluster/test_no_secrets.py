"""Nothing in cluster/ is, or holds the place of, a secret: identities come from the platform."""

import re
from pathlib import Path

import pytest

PATTERNS = {
    "AWS key id": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "AWS secret": r"(?i)aws_?(secret|session)_?[a-z_]*\s*[:=]",
    "AWS key variable": r"AWS_ACCESS_KEY_ID",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "service account file": r'"private_key"|GOOGLE_APPLICATION_CREDENTIALS',
    "hub token": r"\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}",
    "ray token": r"RAY_AUTH_TOKEN\b",
    "password in an address": r"://[^/\s:]+:[^/\s@]+@",
    "named secret with a value": r"(?i)\b(password|passwd|secret|api[-_]?key|access[-_]?key)\s*[:=]\s*\S",
    "secret object": r"kind:\s*Secret\b|secretKeyRef|stringData",
}
EXAMPLES = {
    "AWS key id": "AKIA" + "A1B2C3D4E5F6G7H8",
    "AWS secret": "aws_secret_access_key = x",
    "AWS key variable": "- name: AWS_ACCESS_KEY_ID",
    "private key": "-----BEGIN RSA PRIVATE KEY-----",
    "service account file": "GOOGLE_APPLICATION_CREDENTIALS=/key.json",
    "hub token": "hf_" + "a" * 34,
    "ray token": "export RAY_AUTH_TOKEN=abc",
    "password in an address": "redis://user:hunter2@host",
    "named secret with a value": "password: hunter2",
    "secret object": "kind: Secret",
}


def found(text: str) -> set[str]:
    return {name for name, pattern in PATTERNS.items() if re.search(pattern, text)}


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_patterns_find_what_they_are_for(name: str) -> None:
    assert name in found(EXAMPLES[name])


def test_cluster_holds_no_secret(repository: Path) -> None:
    files = [path for path in (repository / "cluster").rglob("*") if path.is_file()]
    assert len(files) >= 8
    hits = {path.name: found(path.read_text()) for path in files}
    assert {name: names for name, names in hits.items() if names} == {}
