"""The content security policy: what a page of this app may load and run, as strict as Gradio's client permits."""

import base64
import hashlib
import re

INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc\s*=)[^>]*>(.*?)</script\s*>", re.DOTALL | re.IGNORECASE)


def content_security_policy(page: bytes = b"") -> str:
    """The policy for one answer.

    Gradio's page carries inline scripts that hold its configuration, so each is allowed by the hash of its very text;
    whatever text of a user may slip into the page later (`<img onerror=…>`) is not. Its client compiles functions from
    strings (templates of HTML components, scripts on load), so `unsafe-eval` stays; without it the page is blank.

    Args:
        page: The HTML that is sent, where it is HTML.
    """
    hashes = [f"'sha256-{_digest(script)}'" for script in INLINE_SCRIPT.findall(page)]
    directives = {
        "default-src": ["'self'"],
        "script-src": ["'self'", "'unsafe-eval'", *dict.fromkeys(hashes)],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:", "blob:"],
        "media-src": ["'self'", "data:", "blob:"],
        "font-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "worker-src": ["'self'", "blob:"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
    return "; ".join(f"{name} {' '.join(sources)}" for name, sources in directives.items())


def _digest(script: bytes) -> str:
    # Browsers hash the text after they have made every line end a single \n.
    text = script.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return base64.b64encode(hashlib.sha256(text).digest()).decode()
