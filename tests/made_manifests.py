"""Hostile and odd manifests, each with what becomes of it: the clips that are read, or what the refusal says."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Case:
    """A manifest's bytes, and ``told``: a pattern of its refusal, or the texts of its clips."""

    name: str
    data: bytes
    told: str | tuple[str | None, ...]


HEAD = "clip_id,text,label\n"
GOOD = "a,x,happy\nb,y,sad\n"
XY = ("x", "y")


def cases() -> list[Case]:
    """Every case."""
    return [*csv(), *addresses(), *parquet()]


def quoted(text: str) -> str:
    """A cell as spreadsheets write it."""
    return '"' + text.replace('"', '""') + '"'


def csv() -> Iterator[Case]:
    """Text that spreadsheets, editors and attackers write."""
    blank = "," * 20_000 + "\n"
    wide = HEAD.strip() + "".join(f",f{i}" for i in range(20_000)) + "\n" + GOOD.replace("\n", blank)
    formulas = ('=HYPERLINK("http://127.0.0.1:9")', "@SUM(1+1)|cmd", "+1")
    lines = 'two\nlines\r\nand "quotes"'
    read = {
        "byte_order_mark": (("\ufeff" + HEAD + GOOD).encode(), XY),
        "windows_lines": ((HEAD + GOOD).replace("\n", "\r\n").encode(), XY),
        "old_mac_lines": ((HEAD + GOOD).replace("\n", "\r").encode(), XY),
        "no_last_line_end": ((HEAD + GOOD).strip().encode(), XY),
        "blank_lines": ((HEAD + "\n\n" + GOOD.replace("\n", "\n\n")).encode(), XY),
        "quoted_newlines": (f"{HEAD}a,{quoted(lines)},happy\nb,y,sad\n".encode(), (lines, "y")),
        "formulas": (f"{HEAD}a,{quoted(formulas[0])},happy\nb,{formulas[1]},sad\nc,+1,sad\n".encode(), formulas),
        "nul_in_a_text": (f"{HEAD}a,x\0z,happy\nb,y,sad\n".encode(), ("x\0z", "y")),
        "marks_of_direction": (
            f"{HEAD}a,\u202eevil\u2028,happy\nb,\u200b,sad\n".encode(),
            ("\u202eevil\u2028", "\u200b"),
        ),
        "spaces_in_the_header": (f" clip_id , text,label \n{GOOD}".encode(), XY),
        "other_columns": (b"clip_id,text,label,,a\0b\na,x,happy,,\nb,y,sad,,\n", XY),
        "thousands_of_columns": (wide.encode(), XY),
        "no_number_for_a_valence": (b"clip_id,text,label,valence\na,x,happy,\nb,y,sad, \n", XY),
    }
    for name, (data, texts) in read.items():
        yield Case(name, data, texts)
    refused = {
        "label_of_nan": (f"{HEAD}{GOOD}c,z,NaN\n", r"row 4: label 'NaN' looks like a missing value"),
        "label_of_null": (f"{HEAD}{GOOD}c,z,NULL\n", r"row 4: label 'NULL' looks like a missing value"),
        "valence_of_nan": (
            "clip_id,text,label,valence\na,x,happy,nan\nb,y,sad,1e999\n",
            r"row 2: valence 'nan'.*\n.*row 3: valence '1e999'",
        ),
        "formula_for_an_id": (f"{HEAD}=1+1,x,happy\n{GOOD}", r"row 2: clip_id '=1\+1' holds other characters"),
        "path_for_an_id": (f"{HEAD}../../a,x,happy\n{GOOD}", r"row 2: clip_id '\.\./\.\./a'"),
        "newline_in_an_id": (f'{HEAD}"a\nb",x,happy\n{GOOD}', r"row 2: clip_id 'a\\nb' holds other characters"),
        "look_alike_id": (f"{HEAD}\u0430,x,happy\n{GOOD}", r"row 2: clip_id '\u0430' holds other characters"),
        "quote_never_closed": (f'{HEAD}a,"x,happy\nb,y,sad\n', r"row 2"),
        "text_after_a_quote": (f'{HEAD}a,"x"y,happy\nb,y,sad\n', r"row 2"),
        "a_comma_too_many": (f"{HEAD}a,x, and more,happy\nb,y,sad\n", r"row 2: 4 cells, the header has 3"),
        "semicolons": ((HEAD + GOOD).replace(",", ";"), r"separated by ';'"),
        "tabs": ((HEAD + GOOD).replace(",", "\t"), r"separated by '\\t'"),
        "a_column_twice": ("clip_id,text,label,label\na,x,happy,sad\nb,y,sad,sad\n", r"column 'label' comes twice"),
        "html": ("<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", r"no column clip_id"),
        "json": ('{"clip_id": "a"}\n', r"no column clip_id|quote"),
        "a_header_alone": (HEAD, r"has a header and no rows"),
        "spaces": ("  \n \n", r"no column clip_id|cells"),
    }
    for name, (text, told) in refused.items():
        yield Case(name, text.encode(), told)
    yield Case("nothing", b"", r"is empty")
    yield Case("utf_16", (HEAD + GOOD).encode("utf-16"), r"is UTF-16")
    yield Case("gb18030", (HEAD + "a,你好,happy\n").encode("gb18030"), r"bad encoding: row 2")
    yield Case("surrogates", (HEAD + "a,").encode() + b"\xed\xa0\x80,happy\n", r"bad encoding: row 2")
    yield Case("workbook", b"PK\x03\x04" + bytes(100), r"an Excel workbook")
    yield Case("compressed", b"\x1f\x8b" + bytes(100), r"compressed")


def addresses() -> Iterator[Case]:
    """Media that must not be opened.

    In the root are ``good.mp4``, a ``folder``, a ``pipe``, and two symlinks that leave it: ``out`` and ``way``.
    """
    refused = {
        "address": "http://127.0.0.1:9/a.mp4?token=hush",
        "secure_address": "https://127.0.0.1:9/a.mp4",
        "concat": "concat:good.mp4|/etc/passwd",
        "file_address": "file:///etc/passwd",
        "data_address": "data:video/mp4;base64,AAAA",
        "pipe_address": "pipe:0",
        "part_of_a_file": "subfile:start,0,end,0,:/etc/passwd",
        "crypto": "crypto+file:good.mp4",
        "bucket": "s3://bucket/a.mp4",
        "google_bucket": "gs://bucket/a.mp4",
        "drive": "C:\\a.mp4",
        "above": "../secret.mp4",
        "above_by_a_detour": "folder/../../secret.mp4",
        "password_file": "/etc/passwd",
        "another_host": "//127.0.0.1/share/a.mp4",
        "kernel": "/proc/self/environ",
        "device": "/dev/zero",
        "nul": "good.mp4\0.txt",
        "too_long": "x/" * 3000 + "a.mp4",
        "symlink_out": "out",
        "through_a_symlink": "way/secret.mp4",
        "pipe": "pipe",
        "folder": "folder",
        "trailing_slash": "good.mp4/",
    }
    for name, address in refused.items():
        row = f'clip_id,video,label\na,good.mp4,happy\nb,"{address}",sad\n'
        yield Case(f"names_{name}", row.encode(), r"row 3: video ")


def parquet() -> Iterator[Case]:
    """Columns of every type, and files that are none."""

    def written(**columns) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        return buffer.getvalue()

    ids, label = ["a", "b"], ["happy", "sad"]
    read = {
        "label_of_nan": {"label": pa.array([*label, None]), "clip_id": ["a", "b", "c"], "text": ["x", "y", None]},
        "number_label_of_nan": {"label": [0.0, 1.0, np.nan], "clip_id": ["a", "b", "c"], "text": ["x", "y", None]},
        "categories": {"label": pa.array(label).dictionary_encode(), "text": pa.array(list(XY)).dictionary_encode()},
        "bytes": {"text": pa.array([b"x", b"y"])},
        "large_text": {"text": pa.array(XY, pa.large_string())},
        "views": {"text": pa.array(XY, pa.string_view())},
        "nested": {"text": list(XY), "video": pa.array([[1], [2]]), "speaker": pa.array([{"a": 1}, {"a": 2}])},
        "nulls": {"text": list(XY), "video": pa.nulls(2), "speaker": pa.nulls(2)},
        "decimals": {"text": list(XY), "valence": pa.array([Decimal("0.50"), None])},
        "dates": {"text": list(XY), "speaker": pa.array([0, 1], pa.timestamp("us", "UTC"))},
    }
    for name, columns in read.items():
        texts = ("x", "y", None) if len(columns.get("clip_id", ids)) == 3 else XY
        yield Case(f"parquet_{name}", written(**{"clip_id": ids, "label": label, **columns}), texts)
    refused = {
        "bytes_that_are_no_text": ({"text": pa.array([b"x", b"\xff"])}, r"row 2: bad encoding: text is not UTF-8"),
        "infinite_valence": ({"valence": [0.5, np.inf]}, r"row 2: valence 'inf' is not a finite number"),
        "ids_of_nan": ({"clip_id": pa.array([np.nan, 1.0])}, r"row 1: clip_id is blank"),
        "nested_ids": ({"clip_id": pa.array([["a"], ["b"]])}, r"no column clip_id"),
        "truth_for_a_label": ({"label": pa.array([True, True])}, r"one class only"),
    }
    for name, (columns, told) in refused.items():
        yield Case(f"parquet_{name}", written(**{"clip_id": ids, "text": list(XY), "label": label, **columns}), told)
    good = written(clip_id=ids, text=list(XY), label=label)
    broken = {
        "cut": good[: len(good) // 2],
        "tail_only": b"PAR1" + good[-200:],
        "magic_only": b"PAR1",
        "length_lies": good[:-8] + b"\xff\xff\xff\x7fPAR1",
        "without_rows": written(clip_id=pa.array([], pa.string())),
    }
    for name, data in broken.items():
        yield Case(f"parquet_{name}", data, r"is truncated or is not Parquet|has a header and no rows")
