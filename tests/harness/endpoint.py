"""A stub of an OpenAI-compatible endpoint, over real HTTP, that also misbehaves as it is told."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from jetmem_schemas.toc import EXCERPT_CHARS_MAX


class Stub:
    """`with Stub() as stub`. `script` says what to do with the next requests, one word each; then `good`.

    Attributes:
        asked: What was sent, decoded, one for each request.
        keys: Their Authorization headers.
        held: Requests wait while it is not set.
        tokens: What each reply says it took.
    """

    def __init__(self):
        self.script = []
        self.asked = []
        self.keys = []
        self.tokens = 100
        self.retry_after = "0"
        self.held = threading.Event()
        self.held.set()
        self.arrived = threading.Semaphore(0)
        self._ending = threading.Event()

    def __enter__(self):
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                stub._answer(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self.held.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def sent(self):
        """All texts that ever came here."""
        return json.dumps(self.asked, ensure_ascii=False)

    def _answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.asked.append(body)
        self.keys.append(handler.headers.get("Authorization"))
        self.arrived.release()
        self.held.wait()
        how = self.script.pop(0) if self.script else "good"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked had enough
            getattr(self, f"_{how}")(handler, body)

    def _send(self, handler, status, payload, **headers):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(payload)))
        handler.end_headers()
        handler.wfile.write(payload)

    def _said(self, handler, text):
        reply = {"choices": [{"message": {"content": text}}], "usage": {"total_tokens": self.tokens}}
        self._send(handler, 200, json.dumps(reply).encode())

    def _good(self, handler, body):
        self._said(handler, json.dumps(told(body)))

    def _fenced(self, handler, body):
        self._said(handler, f"Here you are:\n```json\n{json.dumps(told(body))}\n```")

    def _invented(self, handler, body):
        """Every quote is made up."""
        said = told(body)
        for bullet in said["bullets"]:
            bullet["quotes"][0]["quote"] = "nobody ever said these words"
        self._said(handler, json.dumps(said))

    def _one_invented(self, handler, body):
        said = told(body)
        said["bullets"].append({"text": "Invented.", "quotes": [{"n": 1, "quote": "nobody said it"}]})
        self._said(handler, json.dumps(said))

    def _misplaced(self, handler, body):
        """Quotes are of other events than they say."""
        said = told(body)
        for bullet in said["bullets"]:
            bullet["quotes"][0]["n"] += 1
        self._said(handler, json.dumps(said))

    def _slow(self, handler, body):
        handler.send_response(200)
        handler.end_headers()
        while not self._ending.wait(0.05):  # byte by byte, so that no single read takes long
            handler.wfile.write(b" ")

    def _busy(self, handler, body):
        self._send(handler, 429, b"{}", Retry_After=self.retry_after)

    def _broken(self, handler, body):
        self._send(handler, 500, b"secret insides")

    def _denied(self, handler, body):
        self._send(handler, 401, b'{"error": "wrong key sk-very-secret"}')

    def _unanswerable(self, handler, body):
        self._send(handler, 400, b"{}")

    def _garbage(self, handler, body):
        self._send(handler, 200, b'{"choices": [{"mess')

    def _not_json(self, handler, body):
        self._said(handler, "I would rather tell you a story.")

    def _wrong_shape(self, handler, body):
        self._said(handler, '{"title": 7, "bullets": "none"}')

    def _empty(self, handler, body):
        self._send(handler, 200, b"")

    def _no_words(self, handler, body):
        self._said(handler, "")

    def _huge(self, handler, body):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(64):
            handler.wfile.write(b" " * 65_536)

    def _closes(self, handler, body):
        handler.close_connection = True
        handler.connection.close()


def told(body):
    """What a good model says: each text, as it was said."""
    sources = json.loads(body["messages"][1]["content"])
    return {
        "title": "Told by\nthe endpoint",
        "bullets": [
            {
                "text": f"It was said: {s['text'][:60]}",
                "quotes": [{"n": s["n"], "quote": s["text"][:EXCERPT_CHARS_MAX]}],
            }
            for s in sources
        ][:4],
    }
