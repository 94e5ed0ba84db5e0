"""Secrets are never recorded: variables that hold one are left out, credentials are removed from addresses."""

import re
from urllib.parse import urlsplit, urlunsplit

SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASS|PWD|CREDENTIAL|KEY|PRIVATE|JWT|AUTH|COOKIE|SIGNATURE|BEARER|(^|_)PAT($|_)",
    re.IGNORECASE,
)
NOT_SECRET_NAMES = ("TOKENIZERS_PARALLELISM",)
SECRET_VALUE = re.compile(
    r"://[^/\s@]+@"  # credentials in an address
    r"|(?<![A-Za-z0-9])(gh[pousr]_|github_pat_|glpat-|sk-|AKIA)[A-Za-z0-9_-]{8}"  # keys with a known prefix
)
CREDENTIALS_IN_TEXT = re.compile(r"://[^/\s@]+@")


def is_secret(name: str, value: str) -> bool:
    """Whether a variable's name suggests a secret, or its value holds a known kind of key or credentials."""
    return bool((name not in NOT_SECRET_NAMES and SECRET_NAME.search(name)) or SECRET_VALUE.search(value))


def redacted(text: str) -> str:
    """A message without user and password in the addresses that it mentions."""
    return CREDENTIALS_IN_TEXT.sub("://", text)


def without_credentials(url: str) -> str:
    """An address without user, password, query or fragment; an ssh user name is kept.

    `https://alice:s3cret@host/r.git?token=x` -> `https://host/r.git`; `git@host:r.git` stays.
    An address of unknown form is withheld.
    """
    if re.match(r"\s*[\w.+-]+::", url):
        return "(withheld: a transport helper)"
    if "://" in url:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            return "(withheld: not a well-formed address)"
        user = f"{parts.username}@" if parts.username and parts.scheme in ("ssh", "git+ssh") else ""
        if not parts.scheme:
            return "(withheld: not a well-formed address)"
        host = f"[{host}]" if ":" in host else host
        return urlunsplit((parts.scheme, f"{user}{host}{port}", parts.path, "", ""))
    scp_like = re.fullmatch(r"(?:([^@/:]+)(?::[^@/]*)?@)?([^@/:]+):(.*)", url)
    if scp_like:
        user, host, path = scp_like.groups()
        return f"{user}@{host}:{path}" if user else f"{host}:{path}"
    return url if "@" not in url else "(withheld: not a well-formed address)"
