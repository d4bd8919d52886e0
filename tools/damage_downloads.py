"""Fetch from hosts that misbehave, and unpack damaged archives: nothing may end in a traceback.

::

    python tools/damage_downloads.py [--count 300] [--seed 0]

Every case fetches a tiny VOC from a host on this machine. It must end with the data set in place,
or with one :class:`DataError` of one line; with a second mirror that is right, it must end well.
``tests/test_datasets_fetch.py`` runs a few dozen of the same cases.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import io
import random
import re
import socket
import socketserver
import struct
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from segnb.datasets import fetch as fetching
from segnb.datasets import voc
from segnb.errors import DataError

TOP = "VOCdevkit/VOC2012"

#: A pause longer than the time-out that :func:`quick` sets.
STALL = 1.0

#: What a host sends for the bytes it should send, from the first one asked for.
Answer = Callable[[bytes, int], Iterator[bytes]]


def files() -> dict[str, bytes]:
    """The smallest VOC: two images with their masks, and the lists."""
    picture, mask = io.BytesIO(), io.BytesIO()
    Image.effect_noise((40, 40), 90).convert("RGB").save(picture, "JPEG")
    Image.new("L", (40, 40), 15).save(mask, "PNG")
    found = {}
    for name in ("a", "b"):
        found[f"{TOP}/JPEGImages/{name}.jpg"] = picture.getvalue()
        found[f"{TOP}/SegmentationClass/{name}.png"] = mask.getvalue()
    found[f"{TOP}/ImageSets/Segmentation/train.txt"] = b"a\n"
    found[f"{TOP}/ImageSets/Segmentation/val.txt"] = b"b\n"
    return found


def packed(kind: str) -> bytes:
    """These files as ``zip``, ``tar``, ``tar.gz``, ``tar.bz2`` or ``tar.xz``."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, data in files().items():
                bundle.writestr(name, data)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind[4:]}") as bundle:
        for name, data in files().items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            bundle.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


KINDS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def zip_fields(data: bytes, *, method: int | None = None, flag: int = 0) -> bytes:
    """A zip whose members say that they are compressed by ``method``, or encrypted (flag 1)."""
    raw = bytearray(data)
    for mark, flags, methods in ((b"PK\3\4", 6, 8), (b"PK\1\2", 8, 10)):
        for hit in re.finditer(re.escape(mark), data):
            raw[hit.start() + flags] |= flag
            if method is not None:
                raw[hit.start() + methods : hit.start() + methods + 2] = struct.pack("<H", method)
    return bytes(raw)


def damaged(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """The data with one damage of any kind, and its name."""
    raw = bytearray(data)
    where = draw.randrange(len(raw))
    kind = draw.choice(["cut", "flip", "flips", "zeros", "gap", "twice", "noise", "front", "mark"])
    if kind == "cut":
        del raw[where:]
    elif kind == "flip":
        raw[where] ^= 1 << draw.randrange(8)
    elif kind == "flips":
        for _ in range(20):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
    elif kind == "zeros":
        raw[where : where + 600] = bytes(len(raw[where : where + 600]))
    elif kind == "gap":
        del raw[where : where + draw.randrange(1, 600)]
    elif kind == "twice":
        raw *= 2
    elif kind == "noise":
        raw[where : where + 300] = draw.randbytes(len(raw[where : where + 300]))
    elif kind == "front":
        raw[:0] = b"<!DOCTYPE html>\n"
    else:  # where headers are, which other damage seldom meets
        marks = [hit.start() for hit in re.finditer(rb"PK\x01\x02|PK\x03\x04|ustar", data)] or [0]
        raw[draw.choice(marks) + draw.randrange(30)] = draw.randrange(256)
    return kind, bytes(raw)


def _head(status: str, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *lines, "", ""]).encode(
        "latin-1"
    )


def _whole(body: bytes, *lines: str) -> bytes:
    return _head("200 OK", *lines, f"Content-Length: {len(body)}") + body


def _plain(*parts: bytes) -> Answer:
    return lambda body, start: iter(parts)


def _length(text: str) -> Answer:
    return lambda body, start: iter([_head("200 OK", f"Content-Length: {text}") + body])


def _moved(address: str) -> Answer:
    return _plain(_head("302 Found", f"Location: {address}", "Content-Length: 0"))


def _stalls(body: bytes, start: int) -> Iterator[bytes]:
    yield _whole(body)[: len(body) // 2]
    time.sleep(STALL)


def _silent(body: bytes, start: int) -> Iterator[bytes]:
    time.sleep(STALL)
    yield b""


def _trickles(body: bytes, start: int) -> Iterator[bytes]:
    yield _head("200 OK", f"Content-Length: {len(body)}")
    for one in body[:40]:
        yield bytes([one])
        time.sleep(STALL / 20)


ANSWERS: dict[str, Answer] = {
    **{
        f"status {status}": _plain(_head(status, "Content-Length: 0"))
        for status in (
            *("204 No Content", "206 Partial Content", "304 Not Modified", "400 Bad Request"),
            *("401 Unauthorized", "403 Forbidden", "404 Not Found", "407 Proxy", "410 Gone"),
            *("416 Range Not Satisfiable", "429 Too Many Requests", "451 Legal", "500 Error"),
            *("502 Bad Gateway", "503 Service Unavailable", "999 Odd", "100 Continue"),
        )
    },
    **{
        f"length {text!r}": _length(text)
        for text in ("abc", "-5", "", "1e9", "0", "10", "99999999", "9" * 40, "0x10", "12, 13")
    },
    **{
        f"moved to {address[:30]!r}": _moved(address)
        for address in (
            *("", "http:///", "http://[::1", "http://127.0.0.1:port/", "http://127.0.0.1:99999/"),
            *("ftp://127.0.0.1:9/x", "file:///etc/passwd", "//", "?", "/again", "mailto:me@here"),
            *("http://" + "a" * 300 + ".invalid/", "http://\xfc.invalid/", "http://127.0.0.1:9/"),
            *("http://a..b/", "javascript:1", "http://127.0.0.1:9/ two words", "http://user@:9/"),
        )
    },
    "moved nowhere": _plain(_head("301 Moved", "Content-Length: 0")),
    "no HTTP": _plain(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "nothing": _plain(b""),
    "a strange version": _plain(b"HTTP/9.9 200 OK\r\n\r\n"),
    "no status": _plain(b"HTTP/1.1\r\n\r\n"),
    "a status that is no number": _plain(b"HTTP/1.1 OK 200\r\n\r\n"),
    "a long line": _plain(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000 + b"\r\n\r\n"),
    "many headers": _plain(_head("200 OK", *(f"X-{i}: 1" for i in range(200)))),
    "bytes in headers": _plain(b"HTTP/1.1 200 \xff\xfe\r\nX\xff: \xfe\x00\r\n\r\n"),
    "a web page": _plain(_whole(b"<!DOCTYPE html><title>log in</title>")),
    "an empty file": _plain(_whole(b"")),
    "chunks without end": lambda body, _: iter(
        [_head("200 OK", "Transfer-Encoding: chunked") + b"10\r\n" + body[:16] + b"\r\n"]
    ),
    "chunks of no size": lambda body, _: iter(
        [_head("200 OK", "Transfer-Encoding: chunked") + b"zz\r\n" + body]
    ),
    "half": lambda body, _: iter([_whole(body)[: len(body) // 2]]),
    "half without a length": lambda body, _: iter([_head("200 OK") + body[: len(body) // 2]]),
    "another part": lambda body, start: iter(
        [_head("206 Partial", "Content-Range: bytes 3-9/10", "Content-Length: 7") + b"1234567"]
    ),
    "two lengths": lambda body, _: iter([_whole(body, "Content-Length: 7")]),
    "packed once more": _plain(_whole(b"\x1f\x8b" + bytes(80), "Content-Encoding: gzip")),
    "stalls": _stalls,
    "silent": _silent,
    "trickles": _trickles,
}


class Host:
    """Serves right bytes at ``/good`` and a bad answer everywhere else."""

    def __init__(self) -> None:
        self.good = self.bad = b""
        self.answer: Answer | None = None
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            timeout = 5

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    asked = self.rfile.readline().decode("latin-1")
                    span = 0
                    while (line := self.rfile.readline().strip()) != b"":
                        if line.lower().startswith(b"range: bytes="):
                            span = int(line.split(b"=")[1].rstrip(b"-"))
                    for part in outer.parts(asked, span):
                        self.wfile.write(part)
                        self.wfile.flush()
                    self.request.shutdown(socket.SHUT_WR)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def parts(self, asked: str, start: int) -> Iterator[bytes]:
        """What is sent for a request line."""
        if " /good " in asked:
            return iter([_whole(self.good)])
        if self.answer is None:
            return iter([_whole(self.bad)])
        return self.answer(self.good, start)

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """A short time-out, and no bars."""
    before = fetching._TIMEOUT
    fetching._TIMEOUT = STALL / 3
    try:
        yield
    finally:
        fetching._TIMEOUT = before


@dataclasses.dataclass(frozen=True)
class Case:
    """One download.

    Attributes:
        name: What is wrong.
        data: The archive that the bad mirror has.
        answer: How that mirror answers; ``None``: well.
        hashed: Whether the archive's hash is known. That of a damaged archive counts as the right
            one: it was damaged before it was published.
        second: Whether there is a second mirror, which is right.
        begun: Whether there is a half download from an earlier call.
    """

    name: str
    data: bytes
    answer: Answer | None
    hashed: bool
    second: bool
    begun: bool


def cases(count: int, seed: int) -> list[Case]:
    """The first ``count`` of a list that has every answer, then damage of every kind of archive."""
    draw = random.Random(seed)
    found = []
    for name, answer in ANSWERS.items():
        second = draw.random() < 0.5
        found.append(Case(name, packed("tar"), answer, True, second, draw.random() < 0.3))
    whole = packed("zip")
    for what, raw in {
        "Deflate64": zip_fields(whole, method=9),
        "Zstandard": zip_fields(whole, method=93),
        "AES": zip_fields(whole, method=99, flag=1),
        "a password": zip_fields(whole, flag=1),
        "no members": whole[whole.rindex(b"PK\5\6") :][:8] + bytes(14),
    }.items():
        found += [Case(f"zip: {what}", raw, None, hashed, not hashed, False) for hashed in (0, 1)]
    while len(found) < count:
        kind = KINDS[len(found) % len(KINDS)]
        what, raw = damaged(packed(kind), draw)
        hashed = draw.random() < 0.5
        found.append(
            Case(f"{kind}: {what}", raw, None, hashed, not hashed and draw.random() < 0.5, False)
        )
    draw.shuffle(found)
    return found[:count]


def outcome(case: Case, host: Host, root: Path) -> str:
    """``ready``, ``said: …``, or what is wrong about how the case ended."""
    host.good, host.bad, host.answer = packed("tar"), case.data, case.answer
    right = host.good if case.answer or case.second else case.data
    assert voc.VOC.archive is not None
    archive = dataclasses.replace(
        voc.VOC.archive,
        mirrors=(f"{host.address}/bad", *([f"{host.address}/good"] if case.second else [])),
        sha1=hashlib.sha1(right).hexdigest() if case.hashed else None,
    )
    if case.begun:
        part = root / ".downloads" / f"{archive.file}.part"
        part.parent.mkdir()
        part.write_bytes(host.good[:3000])
    try:
        fetching.fetch(dataclasses.replace(voc.VOC, archive=archive), root=root, say=lambda _: None)
    except DataError as error:
        left = [p.name for p in (root / ".downloads").iterdir() if p.name.startswith("unpack.")]
        if "\n" in str(error):
            return f"FAULT: several lines: {error}"
        if left:
            return f"FAULT: {left} is left"
        return f"FAULT: the second mirror is right: {error}" if case.second else f"said: {error}"
    except Exception as error:
        return f"FAULT: {''.join(traceback.format_exception(error)[-3:])}"
    return "ready"


def campaign(count: int, seed: int) -> dict[str, list[str]]:
    """How each case ended, by its name."""
    host, ended = Host(), {}
    try:
        with quick():
            for number, case in enumerate(cases(count, seed)):
                with tempfile.TemporaryDirectory() as root:
                    ended[f"{number} {case.name}"] = outcome(case, host, Path(root))
    finally:
        host.close()
    return ended


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", action="store_true", help="print how each case ended")
    options = parser.parse_args()
    ended = campaign(options.count, options.seed)
    for name, how in ended.items():
        if options.words or how.startswith("FAULT"):
            print(f"{name}: {how}")
    print(Counter(how.split(":")[0] for how in ended.values()))
    return int(any(how.startswith("FAULT") for how in ended.values()))


if __name__ == "__main__":
    sys.exit(main())
