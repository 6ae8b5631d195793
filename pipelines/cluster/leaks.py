"""What must not leave with a job: files, texts and variables that look like secrets. What is found is never quoted."""

from __future__ import annotations

import fnmatch
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

# Files that are for secrets, by name, and folders, by any part of the path.
_FILES = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "id_rsa*", "id_ecdsa*", "id_ed25519*",
    "credentials", "credentials.*", ".netrc", ".pgpass", ".git-credentials", ".htpasswd", "auth_token", "kubeconfig",
)  # fmt: skip
_FOLDERS = (".aws", ".ssh", ".kube", ".gnupg")
# Texts that are secrets, by what their issuers made them to look like. Amazon's own examples end in EXAMPLE.
_TEXTS = {
    "an AWS access key": rb"\b(?:AKIA|ASIA)(?![A-Z0-9]{9}EXAMPLE)[A-Z0-9]{16}\b",
    "an AWS secret key": rb"(?i)aws_?secret_?(?:access_?)?key[\"']?\s*[=:]\s*[\"']?(?![A-Za-z0-9/+]{33}EXAMPLE)"
    rb"[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})",
    "a Google key": rb"\bAIza[A-Za-z0-9_-]{35}\b",
    "a Slack token": rb"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{34,}\b",
}
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _TEXTS.items()}
_PASSWORD_IN_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)
_SECRET_NAME = re.compile(
    r"(SECRET|PASSWORD|PASSWD|PASSPHRASE|TOKEN|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY)", re.IGNORECASE
)


def in_package(package: Path) -> Iterator[str]:
    """What looks like a secret in the zip `package`: "<file>: a file for secrets" or "<file>:<line>: <kind>"."""
    with zipfile.ZipFile(package) as archive:
        for entry in archive.infolist():
            path = PurePosixPath(entry.filename)
            if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in _FILES) or {*path.parts} & {
                *_FOLDERS
            }:
                yield f"{path}: a file for secrets"
            elif not entry.is_dir():
                for line, kind in in_text(archive.read(entry)):
                    yield f"{path}:{line}: {kind}"


def in_text(text: bytes) -> Iterator[tuple[int, str]]:
    """The kinds of secrets in `text`, each with its line (from 1)."""
    for kind, pattern in _PATTERNS.items():
        for found in pattern.finditer(text):
            yield text.count(b"\n", 0, found.start()) + 1, kind


def in_words(words: Iterable[str]) -> Iterator[str]:
    """What looks like a secret in a command's words."""
    for number, word in enumerate(words, start=1):
        yield from (f"word {number} of the command: {kind}" for kind in _of_value(word))
        name, equals, value = word.lstrip("-").partition("=")
        if equals and value and _SECRET_NAME.search(name):
            yield f"word {number} of the command ({name}): a secret, by its name"


def in_variables(variables: Mapping[str, str]) -> Iterator[str]:
    """What looks like a secret in environment variables: by its name, or its value."""
    for name, value in variables.items():
        # A path is where a secret is, not the secret.
        if _SECRET_NAME.search(name) and not name.upper().endswith(("_PATH", "_FILE")):
            yield f"{name}: a secret, by its name"
        else:
            yield from (f"{name}: {kind}" for kind in _of_value(value))


def _of_value(value: str) -> Iterator[str]:
    yield from (kind for _, kind in in_text(value.encode()))
    if _PASSWORD_IN_URI.search(value):
        yield "an address with a password"
