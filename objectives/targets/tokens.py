"""The token that an agent and its client share."""

from __future__ import annotations

import os
from pathlib import Path

from sousvit.errors import UserError

#: A shorter token could be guessed.
MIN_TOKEN = 16


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        UserError: no such file, or no token in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("the token's file must be readable", f"{path}: {error}", "correct token_file") from error
    return _checked(text, path)


def token_of_environment(name: str) -> str:
    """The token in an environment variable.

    Raises:
        UserError: it is not set, or holds no token.
    """
    if name not in os.environ:
        raise UserError("the token's environment variable must be set", name, "set it, or use token_file")
    return _checked(os.environ[name], name)


def _checked(text: str, where: object) -> str:
    token = text.strip()
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable():
        raise UserError(
            f"a token is {MIN_TOKEN} or more plain characters", f"{len(token)} in {where}", "write a longer one"
        )
    return token
