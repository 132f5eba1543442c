"""Recognise files that hold no inputs by their first bytes, and say how to get inputs from them."""

from __future__ import annotations

import re
import zipfile
from typing import BinaryIO

NO_TEXT = "is neither text nor of another known kind"
HEAD = 4096  # bytes that are read

PARQUET = b"PAR1"
_TO_CSV = "save it as CSV (UTF-8), or: libreoffice --headless --convert-to csv FILE"
_SIGNATURES = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel or Word file of before 2007", _TO_CSV),
    (b"%PDF", "a PDF", "copy its inputs into a CSV or JSONL file"),
    (b"{\\rtf", "a rich text document", "save it as plain text (UTF-8)"),
    (b"ARROW1\0\0", "an Arrow file", "convert it: pandas.read_feather(…).to_parquet(…)"),
    (b"Obj\x01", "an Avro file", "convert it to JSONL, CSV or Parquet"),
    (b"SQLite format 3\0", "a SQLite database", "export its table: sqlite3 -csv -header FILE …"),
    (b"\x80\x04\x95", "a Python pickle", "write it again as JSONL, CSV or Parquet"),
    (b"\x80\x05\x95", "a Python pickle", "write it again as JSONL, CSV or Parquet"),
    (b"\x93NUMPY", "a NumPy array", "write it again as JSONL, CSV or Parquet"),
    (b"\x89HDF\r\n", "an HDF5 file", "write it again as JSONL, CSV or Parquet"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x FILE"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first: unrar x FILE"),
    (b"\x1f\x9d", "compressed by compress", "uncompress -c FILE | evalworker enqueue - …"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "lz4 -dc FILE | evalworker enqueue - …"),
    (b"\x5d\x00\x00", "compressed by lzma", "xz -dc FILE | evalworker enqueue - …"),
    (b"\x89PNG", "a picture", "inputs are text"),
    (b"\xff\xd8\xff", "a picture", "inputs are text"),
    (
        b"version https://git-lfs.github.com/",
        "a Git LFS pointer instead of the file itself",
        "get the file: git lfs pull",
    ),
)
_WEB_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head)", re.IGNORECASE)
_YAML = re.compile(rb"(?:---[ \t]*\r?\n|\w+:[ \t]*\r?\n)?\s*- +[\w\"']+ *:\s")
_XML = re.compile(rb"\s*<\?xml")
_TAR = slice(257, 262)


def foreign_kind(head: bytes, file: BinaryIO) -> str | None:
    """Return what a file is that holds no inputs, with the remedy; None for any other file."""
    for signature, kind, remedy in _SIGNATURES:
        if head.startswith(signature):
            return f"is {kind}: {remedy}"
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(file)
    if head[_TAR] == b"ustar":
        return "is a tar archive: unpack it first: tar xf FILE"
    if bytes(4) in head:
        return NO_TEXT
    if _WEB_PAGE.match(head):
        return "is a web page (HTML) instead of the file itself: download the raw file"
    if _YAML.match(head):
        return "is YAML: yq -o json -I 0 '.[]' FILE | evalworker enqueue - …"
    if _XML.match(head):
        return "is XML: convert it to JSONL or CSV"
    return None


def _zip_kind(file: BinaryIO) -> str:
    """Return what a zip file is: spreadsheets and text documents are zip files, too."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.namelist() if not member.endswith("/")]
    except zipfile.BadZipFile:
        return "is a damaged zip archive: download or copy it again"
    if "xl/workbook.xml" in members or "xl/workbook.bin" in members:
        return f"is an Excel file: {_TO_CSV}"
    if "word/document.xml" in members:
        return "is a Word document: copy its inputs into a CSV or JSONL file"
    if "content.xml" in members and "mimetype" in members:
        return f"is an OpenDocument file: {_TO_CSV}"
    if "data.pkl" in {member.rpartition("/")[2] for member in members}:
        return "is a PyTorch file: write its inputs again as JSONL, CSV or Parquet"
    if len(members) != 1:
        return f"is a zip archive of {len(members)} files: unpack it first: unzip FILE"
    return "is a zip archive: unzip -p FILE | evalworker enqueue - …"
