"""Secrets in a command line: what must go, and what must stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.masking import MASK, mask_secrets

SECRET = "s3cr3tV4lue99"
TOKENS = [
    "hf_abcdefghijKLMNOP",
    "sk-proj-abcdEFGH1234",
    "ghp_abcdefgh12345678",
    "github_pat_11ABCDEFG0abcdef",
    "glpat-abcdefgh1234",
    "xoxb-1234567890-abc",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
]


@pytest.mark.parametrize(
    "words",
    [
        ["--token", SECRET],
        ["--hf_token", SECRET],
        ["--api-key", SECRET],
        ["--apiKey", SECRET],
        ["--password", SECRET],
        ["--db.password", SECRET],
        ["-token", SECRET],
        [f"--token={SECRET}"],
        [f"--api-key={SECRET} with spaces"],
        [f"WANDB_API_KEY={SECRET}"],
        [f"+logger.wandb.api_key={SECRET}"],
        [f'{{"token": "{SECRET}", "lr": 0.1}}'],
        [f"{{'auth': '{SECRET}'}}"],
        [f"password: {SECRET}"],
        [f"https://user:{SECRET}@host.org/x"],
        [f"postgres://{SECRET}@db/x"],
        [f"https://host/x?lr=1&access_token={SECRET}&b=2"],
        [f"Authorization: Bearer {SECRET}"],
        [f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END"],
        ["-c", f"login(token='{SECRET}')"],
    ],
)
def test_a_secret_is_masked(words):
    masked = mask_secrets(words)
    assert SECRET not in " ".join(masked)
    assert MASK in " ".join(masked)
    assert len(masked) == len(words)


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_is_known_by_its_form(token):
    assert token not in " ".join(mask_secrets(["train.py", token, f"--x={token}", f"load('{token}')"]))


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "--tokens", "2048", "--max_tokens=99", "--tokenizer", "gpt2"],
        ["--key-dim", "64", "--monkey", "1", "--author", "me", "--keyframes", "3"],
        ["--url", "https://host.org/a@b/c", "--lr=1e-3", "model.lr=0.1", "data=/a/b"],
        ["--token", "--lr", "0.1"],
        ["--sketch", "task-list", "ask-me"],
        ["python", "-m", "train", "--seed", "0"],
    ],
)
def test_what_is_no_secret_stays(words):
    assert mask_secrets(words) == words


def test_what_stands_beside_a_secret_stays():
    assert mask_secrets(["t.py", "--token", SECRET, "--lr", "0.1"]) == ["t.py", "--token", MASK, "--lr", "0.1"]
    assert mask_secrets([f"s3://{SECRET}@host/data"]) == [f"s3://{MASK}@host/data"]
    assert mask_secrets([f"https://h/x?lr=1&token={SECRET}&b=2"]) == [f"https://h/x?lr=1&token={MASK}&b=2"]


@given(st.lists(st.text(max_size=30), max_size=6))
def test_masking_twice_changes_nothing_more(words):
    once = mask_secrets(words)
    assert len(once) == len(words)
    assert mask_secrets(once) == once
