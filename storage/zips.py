"""What zips from whomever have in common: which ways of packing are read, and how a damaged one shows."""

import zipfile
import zlib

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others can be made to ask for memory by the gigabyte."""

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)
"""What `zipfile` raises for what it cannot read: a password is a RuntimeError, a senseless offset a ValueError."""
