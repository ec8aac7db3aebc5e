"""Counts visits. GET / says how many there were; GET /health answers without counting. Port 8000."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from client import ask

with open("/etc/hello/greeting", encoding="utf-8") as file:
    GREETING = file.read().strip()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            text = "ok\n"
        elif self.path == "/":
            text = f"{GREETING} You are visitor number {ask(do='increment', key='visits')}.\n"
        else:
            self.send_error(404)
            return
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, text, *arguments):
        if self.path != "/health":
            print("web:", text % arguments, flush=True)


print("web: listening on port 8000", flush=True)
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
