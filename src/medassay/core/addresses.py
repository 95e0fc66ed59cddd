"""Addresses of databases and servers as they may be shown."""

from __future__ import annotations

import re

# after //user: and before @; not in a path, which follows the three slashes of sqlite:///
_PASSWORD = re.compile(r"(?<!:/)(//[^:/@\s]*:)[^\s]*@")


def hide_password(text: str) -> str:
    """``text`` with three stars for the password in each address: ``postgresql://me:***@host/studies``."""
    return _PASSWORD.sub(r"\1***@", text)
