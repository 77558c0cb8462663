"""A proxy before the server of a bucket, which disturbs requests."""

import collections
import http.client
import http.server
import re
import socket
import struct
import threading
import time
import urllib.parse

DROP, CUT, DELAY = "drop", "cut", "delay"
BUSY, UNAVAILABLE = "429", "503"
FAULTS = (DROP, CUT, DELAY, BUSY, UNAVAILABLE)
DELAY_SECONDS = 1.0


def kind(method, target):
  """What a request does, such as `GET media` of an object."""
  path, _, query = target.partition("?")
  if path.startswith("/upload/") or "uploadType" in query:
    return f"{method} upload"
  if re.search("/(rewriteTo|copyTo|moveTo)/", path):
    return f"{method} copy"
  if path.startswith("/download/") or "alt=media" in query:
    return f"{method} media"
  if path.startswith("/batch"):
    return f"{method} batch"
  return f"{method} {'list' if path.rstrip('/').endswith('/o') else 'object'}"


class Proxy:
  """Passes requests on, except for those that shall fail.

  Attributes:
    url: of the proxy.
    counts: of the requests so far, by kind.
    fired: how many were disturbed.
  """

  def __init__(self, url):
    self._target = urllib.parse.urlsplit(url).netloc
    self._lock = threading.Lock()
    self.disarm()
    proxy = self

    class Handler(http.server.BaseHTTPRequestHandler):
      """Handles one connection."""

      protocol_version = "HTTP/1.1"

      def log_message(self, *arguments):
        """Says nothing."""

      def handle_any(self):
        """Passes a request on."""
        length = int(self.headers.get("Content-Length") or 0)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
          body = _chunks(self.rfile)
        else:
          body = self.rfile.read(length)
        proxy.answer(self, body)

    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"):
      setattr(Handler, f"do_{method}", Handler.handle_any)

    class Server(http.server.ThreadingHTTPServer):
      """Prints nothing about clients that are gone."""

      daemon_threads = True
      request_queue_size = 128

      def handle_error(self, *arguments):
        """Says nothing."""

    self._server = Server(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def arm(self, fault, of=None, at=1, *, lasts=False):
    """Makes the at-th request of a kind fail, or all from there on.

    Args:
      fault: one of `FAULTS`, or another code of HTTP.
      of: kind of request; of any kind if absent.
      at: number of the first that fails.
      lasts: whether the others after it fail as well, of any kind.
    """
    with self._lock:
      self.counts = collections.Counter()
      self._fault, self._of, self._at, self._lasts = fault, of, at, lasts
      self.fired = 0

  def disarm(self):
    """Lets everything pass."""
    self.arm(None)

  def _disturbs(self, what):
    with self._lock:
      self.counts[what] += 1
      self.counts[None] += 1
      if self._fault is None:
        return None
      is_it = self._of in (None, what) and self.counts[self._of] == self._at
      if is_it or (self._lasts and self.fired):
        self.fired += 1
        return self._fault
      return None

  def answer(self, handler, body):
    """Answers a request with the server's answer or with the fault."""
    fault = self._disturbs(kind(handler.command, handler.path))
    if fault and fault.isdigit():
      _reply(handler, int(fault), [], b'{"error": {"message": "disturbed"}}')
      return
    if fault == DROP:
      _reset(handler)
      return
    if fault == DELAY:
      time.sleep(DELAY_SECONDS)
    status, headers, content = self._ask(handler, body)
    _reply(handler, status, headers, content, is_cut=fault == CUT)

  def _ask(self, handler, body):
    connection = http.client.HTTPConnection(self._target, timeout=60)
    headers = {
      name: value
      for name, value in handler.headers.items()
      if name.lower() not in ("transfer-encoding", "connection", "host")
    }
    headers["Content-Length"] = str(len(body))
    headers["Host"] = self._target
    connection.request(handler.command, handler.path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    kept = [
      (name, value.replace(f"http://{self._target}", self.url))
      for name, value in answer.getheaders()
      if name.lower() not in ("transfer-encoding", "connection")
    ]
    return answer.status, kept, content

  def close(self):
    """Stops."""
    self._server.shutdown()
    self._server.server_close()


def _reply(handler, status, headers, content, *, is_cut=False):
  handler.send_response_only(status)
  for name, value in headers:
    if name.lower() != "content-length":
      handler.send_header(name, value)
  length = len(content)
  handler.send_header("Content-Length", str(length + 10 if is_cut else length))
  handler.end_headers()
  if handler.command != "HEAD":
    handler.wfile.write(content[: length // 2] if is_cut else content)
  if is_cut:
    handler.wfile.flush()
    _reset(handler)


def _reset(handler):
  """Resets the connection, as if the machine were gone."""
  linger = struct.pack("ii", 1, 0)
  handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
  handler.connection.close()
  handler.close_connection = True


def _chunks(stream):
  body = b""
  while size := int(stream.readline().split(b";")[0], 16):
    body += stream.read(size)
    stream.readline()
  stream.readline()
  return body
