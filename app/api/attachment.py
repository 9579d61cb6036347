"""How a file is sent so that a browser saves it and never shows it."""

from urllib.parse import quote


def attachment(filename: str) -> dict[str, str]:
    """Headers of a download.

    Args:
        filename: Name to save under; any text, since a plain copy of it stands first for old clients (RFC 6266).
    """
    plain = "".join(each if each.isalnum() or each in "-_." else "_" for each in filename if each.isascii())
    encoded = quote(filename, safe="")
    return {
        "Content-Disposition": f"attachment; filename=\"{plain.lstrip('.') or 'file'}\"; filename*=UTF-8''{encoded}",
        "X-Content-Type-Options": "nosniff",
    }
