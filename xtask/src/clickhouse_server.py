"""The engine of ClickHouse behind HTTP, for tests: `clickhouse_server.py FOLDER PORT`, and what `--help` says.

It speaks what pipelines and tests use of ClickHouse's HTTP interface: the query in the address or in the body, settings
in the address, data in the body, compressed or not, a user and a password in headers, and errors with their code. What
is in FOLDER survives `kill -9`. One statement runs at a time: the engine has one connection to a process.
"""

import argparse
import os
import re
import socket
import ssl
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pyarrow
from chdb import session

arguments = argparse.ArgumentParser(description="The engine of ClickHouse behind HTTP, for tests.")
arguments.add_argument("folder")
arguments.add_argument("port", type=int)
arguments.add_argument("--user", default="default")
arguments.add_argument("--password", default="")
arguments.add_argument("--tls", nargs=3, metavar=("CERTIFICATE", "KEY", "AUTHORITY"), help="of the server, and of its clients")
arguments = arguments.parse_args()
FOLDER, PORT, USER, PASSWORD = arguments.folder, arguments.port, arguments.user, arguments.password

# What the interface takes for itself.
NOT_SETTINGS = {
    "query", "database", "default_format", "decompress", "compress", "wait_end_of_query", "user", "password",
    "query_id", "session_id", "enable_http_compression", "role",
}
STATUS = {60: 404, 81: 404, 516: 403, 497: 403, 62: 400, 47: 404, 16: 404, 117: 400, 27: 400}
CODECS = {0x82: "lz4_raw", 0x90: "zstd"}
BODY = os.path.join(os.path.dirname(os.path.abspath(FOLDER)), "body")
# Formats that say which columns they have.
WITH_NAMES = {"Native", "RowBinaryWithNamesAndTypes"}
INSERT = re.compile(r"^\s*insert\s+into\b", re.IGNORECASE)
INSERT_FORMAT = re.compile(r"^(.*?)\s+format\s+(\w+)\s*;?\s*$", re.IGNORECASE | re.DOTALL)

engine = session.Session(FOLDER)
lock = threading.Lock()


class Refused(Exception):
    """An error as ClickHouse says it."""


def decompressed(body):
    """The blocks of ClickHouse's own compression, whose checksums are not looked at."""
    parts, place = [], 0
    while place < len(body):
        kind, packed, plain = struct.unpack_from("<BII", body, place + 16)
        data = body[place + 25 : place + 16 + packed]
        if kind == 0x02:
            parts.append(data)
        else:
            parts.append(pyarrow.decompress(data, decompressed_size=plain, codec=CODECS[kind], asbytes=True))
        place += 16 + packed
    return b"".join(parts)


def setting(name, value):
    """A setting as a statement has it."""
    if re.fullmatch(r"-?\d+", value):
        return f"{name} = {value}"
    value = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name} = '{value}'"


def insert(head, settings, form, body):
    """Inserts the body of a request.

    The engine's own way for bytes, `send_insert`, says nothing when the table does not take them, so they go by a file.
    """
    if not body:
        return
    with open(BODY, "wb") as file:
        file.write(body)
    structure = "" if form in WITH_NAMES else f", '{structure_of(head)}'"
    engine.query(f"{head} {settings} SELECT * FROM file('{BODY}', '{form}'{structure})")


def structure_of(head):
    """The names and types of the columns that a statement inserts into."""
    table, columns = re.match(r"^\s*insert\s+into\s+([^(]+?)\s*(?:\((.*)\))?\s*$", head, re.IGNORECASE | re.DOTALL).groups()
    types = dict(
        line.split("\t")[:2] for line in engine.query(f"DESCRIBE TABLE {table}", "TabSeparatedRaw").data().splitlines()
    )
    names = [name.strip().strip("`") for name in columns.split(",")] if columns else types
    return ", ".join(f"`{name}` {types[name]}" for name in names).replace("\\", "\\\\").replace("'", "\\'")


def run(parameters, body):
    """Runs a request; gives the bytes of its answer."""
    query = parameters.get("query", "")
    settings = ", ".join(setting(*pair) for pair in parameters.items() if pair[0] not in NOT_SETTINGS)
    if "query" not in parameters:
        query, body = body.decode(), b""
    elif not INSERT.match(query):
        query, body = query + body.decode(), b""
    with lock:
        database = parameters.get("database")
        if database:
            engine.query(f"USE `{database}`")
        found = INSERT_FORMAT.match(query) if INSERT.match(query) else None
        if found and found[2].lower() != "values":
            insert(found[1], f"SETTINGS {settings}" if settings else "", found[2], body)
            return b""
        if body:
            query = f"{query} {body.decode()}"
        return engine.query(query, parameters.get("default_format", "TabSeparated")).bytes()


class Handler(BaseHTTPRequestHandler):
    """A connection."""

    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_):
        """Errors are in the answers."""

    def body(self):
        """The whole body; None when the client has gone before its end."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            return body if len(body) == length else None
        chunks = []
        while True:
            line = self.rfile.readline()
            if not line.endswith(b"\n"):
                return None
            length = int(line.split(b";")[0], 16)
            chunk = self.rfile.read(length)
            if len(chunk) < length or not self.rfile.readline():
                return None
            if length == 0:
                return b"".join(chunks)
            chunks.append(chunk)

    def do_POST(self):
        """A statement."""
        body = self.body()
        if body is None:
            self.close_connection = True
            return
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        user = self.headers.get("X-ClickHouse-User", parameters.get("user", "default"))
        password = self.headers.get("X-ClickHouse-Key", parameters.get("password", ""))
        try:
            if (user, password) != (USER, PASSWORD):
                raise Refused(
                    f"Code: 516. DB::Exception: {user}: Authentication failed: password is incorrect, or there is no "
                    "user with such name. (AUTHENTICATION_FAILED)"
                )
            if parameters.get("decompress") == "1":
                body = decompressed(body)
            self.answer(200, run(parameters, body))
        except Exception as error:  # whatever the engine says is the answer
            text = str(error)
            text = text[text.find("Code:") :] if "Code:" in text else f"Code: 1001. DB::Exception: {text}"
            code = int(re.match(r"Code:\s*(\d+)", text)[1])
            body = f"{text.strip()} (version 26.9 (official build))\n".encode()
            self.answer(STATUS.get(code, 500), body, {"X-ClickHouse-Exception-Code": str(code)})

    def do_GET(self):
        """`/ping`, or a query."""
        if urlsplit(self.path).path == "/ping":
            self.answer(200, b"Ok.\n")
        else:
            self.do_POST()

    def answer(self, status, body, headers=None):
        """Sends an answer."""
        self.send_response(status)
        self.send_header("X-ClickHouse-Server-Display-Name", "chdb")
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """One thread a connection."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """A client that has gone is no error of the server's."""


server = Server(("127.0.0.1", PORT), Handler)
if arguments.tls:
    certificate, key, authority = arguments.tls
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
