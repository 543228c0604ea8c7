"""Text that may be shown: without passwords, keys and signatures, and without what a terminal would obey.

Whatever we log, raise or write down may quote a URL or an error message of somebody else's library, and those may quote
credentials. `redact` takes out what looks like one, and what the environment says is one. Names of files and layers,
descriptions and the words of a captioner come from elsewhere too: a control character in them is shown and not sent.
"""

import os
import re

HIDDEN = "***"

_SECRET_NAME = re.compile(r"(SECRET|PASSWORD|PASSWD|TOKEN|ACCESS_KEY|API_KEY|CREDENTIAL)", re.IGNORECASE)
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, what turns the direction of text, and halves of characters."""

_SHORTEST_SECRET = 8  # Shorter values ("test", "1") would blank ordinary words.

_PATTERNS = (
    # user:password@ in a URL
    (re.compile(r"(?<=://)[^/\s@'\"]+@"), f"{HIDDEN}@"),
    # signed URLs and URL parameters
    (
        re.compile(
            r"(?i)\b(x-amz-(?:signature|credential|security-token)|signature|awsaccesskeyid|access_?key(?:_?id)?"
            r"|secret(?:_?(?:access_?)?key)?|session_?token|api_?key|password|token)=[^&\s'\"]+"
        ),
        rf"\1={HIDDEN}",
    ),
    # headers
    (
        re.compile(r"(?i)\b(authorization|x-amz-security-token|x-ray-authorization)(['\"]?\s*[:=]\s*).+"),
        rf"\1\2{HIDDEN}",
    ),
    # JSON, YAML and Python fields
    (
        re.compile(
            r"(?i)(['\"]?\b[a-z_]*(?:secret(?:_?(?:access_?)?key)?|password|session_?token|api_?key|access_?key(?:_?id)?)['\"]?"
            r"\s*:\s*)(['\"])[^'\"]+(['\"])"
        ),
        rf"\1\2{HIDDEN}\3",
    ),
    # access key ids of AWS
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
)


def redact(text: str) -> str:
    r"""The text with every credential that can be recognised replaced by stars.

    Recognised are: a user and password in a URL, the parameters of a signed URL, authorisation headers, fields whose
    name says that they are secret, AWS key ids, and the value of every environment variable named like a secret.
    A control character becomes its number as JSON writes it, \u001b; colours, which Ray gives its errors, are left out.
    """
    text = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", _COLOUR.sub("", text))
    for secret in _secrets_of_the_environment():
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _secrets_of_the_environment() -> list[str]:
    """Longest first, so that no secret survives as the rest of a shorter one."""
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    # A path (AWS_WEB_IDENTITY_TOKEN_FILE) is where a secret is kept, not the secret.
    return sorted((v for v in values if len(v) >= _SHORTEST_SECRET and not v.startswith("/")), key=len, reverse=True)
