"""Secrets: a command line without its tokens, keys and passwords, so that a report can be shown to others."""

from __future__ import annotations

import re
from collections.abc import Sequence

MASK = "***"

#: Last words of an option's or variable's name that say its value is secret.
_SECRET_WORDS = frozenset({"token", "secret", "key", "apikey", "credential", "bearer", "pat", "dsn"}) | frozenset(
    {"password", "passwd", "passphrase", "pwd", "pass", "auth", "authorization"}
)

#: Forms that give themselves away wherever they stand.
_KNOWN = re.compile(
    r"hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{8,}|github_pat_\w{8,}|glpat-[\w-]{8,}"
    r"|xox[abeprs]-[\w-]{8,}|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{20,}|ya29\.[\w-]{8,}|npm_[A-Za-z0-9]{8,}"
    r"|pypi-[\w-]{16,}|nvapi-[\w-]{8,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|-----BEGIN[^-]*PRIVATE KEY-----[\s\S]*"
)
# Names are looked for where one can begin only: trying every letter of a long word would take its length squared.
_USER_IN_URL = re.compile(r"(?<![a-z0-9+.-])(?P<scheme>[a-z0-9+.-]+://)[^/\s@]+@", re.IGNORECASE)
_HEADER = re.compile(r"\b(?P<scheme>bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
_PAIR = re.compile(
    r"(?<![\w.-])(?P<name>[\w.-]+)(?P<is>[\"']?\s*[=:]\s*)(?P<quote>[\"']?)(?P<value>[^\"'\s&,;}]+)(?P=quote)"
)


def mask_secrets(command: Sequence[str]) -> list[str]:
    """Return the words of a command with every secret replaced by ``***``.

    A value is secret when its name ends in a word such as token, key or password (``--api-key X``,
    ``--api-key=X``, ``WANDB_API_KEY=X``, ``"token": "X"``), when it stands in a URL before the ``@``, or when it
    has the form of a known token. Counts of tokens (``--tokens 2048``) stay.

    >>> mask_secrets(["train.py", "--api-key", "abc", "--lr=0.1", "s3://me:pw@host/data"])
    ['train.py', '--api-key', '***', '--lr=0.1', 's3://***@host/data']
    """
    masked: list[str] = []
    owed = False  # the word before this one was the name of a secret
    for word in map(str, command):
        is_option = word.startswith("-") and len(word) > 1
        masked.append(MASK if owed and not is_option else _mask_word(word))
        owed = is_option and "=" not in word and is_secret(word)
    return masked


def is_secret(name: str) -> bool:
    """Say whether an option or variable of this name holds a secret.

    >>> [is_secret(n) for n in ("--hf_token", "--tokens", "--tokenizer", "apiKey", "--key-dim", "monkey")]
    [True, False, False, True, False, False]
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("-_+.")
    parts = [part for part in re.split(r"[-_.\s]+", words) if part]
    if not parts:
        return False
    last = parts[-1]
    return last in _SECRET_WORDS or (last.endswith("s") and last[:-1] in _SECRET_WORDS - {"token", "pas"})


def _mask_word(word: str) -> str:
    word = _KNOWN.sub(MASK, word)
    word = _USER_IN_URL.sub(rf"\g<scheme>{MASK}@", word)
    word = _HEADER.sub(rf"\g<scheme> {MASK}", word)
    whole = re.fullmatch(r"(?P<name>[-+\w.]+)=(?P<value>.+)", word, re.DOTALL)
    if whole and is_secret(whole["name"]):
        return f"{whole['name']}={MASK}"
    return _PAIR.sub(_mask_pair, word)


def _mask_pair(pair: re.Match[str]) -> str:
    if not is_secret(pair["name"]) or pair["value"].startswith(MASK) or pair["value"].startswith("//"):
        return pair[0]
    return f"{pair['name']}{pair['is']}{pair['quote']}{MASK}{pair['quote']}"
