"""The one error tree. A class exists because some caller acts on it (an HTTP status, an exit status, a retry).

    PystackError            something a user can be told; never a traceback
    ├── InvalidInput        the request cannot mean anything              HTTP 400
    │   └── StackFileError  the stack file is wrong; carries every diagnostic with its mark
    ├── NotFound            no such container, image, network, volume …   HTTP 404
    ├── Conflict            it exists, is in use, is in another state     HTTP 409
    ├── Forbidden           understood and refused                        HTTP 403
    ├── NotModified         already so                                    HTTP 304
    ├── Unsupported         this engine does not do that, and says why    HTTP 501
    ├── Unavailable         not now: shutting down, launcher gone         HTTP 503
    └── EngineError         the engine or the kernel failed               HTTP 500
        └── StartError      the container's program cannot start; carries the exit code 125, 126 or 127

Messages name the thing and what cannot be done; `hint` is the next step.
Docker's exact messages are kept where clients match on them.
"""

from __future__ import annotations


class PystackError(Exception):
    """Base of everything a user is told. `hint` is the next step, shown on a line of its own."""

    status = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInput(PystackError):  # noqa: N818 - named for what it tells, like NotFound
    status = 400


class StackFileError(InvalidInput):
    """A stack file that cannot be used. `diagnostics` holds every problem found, in file order.

    Each diagnostic is a `pystack.stackfile` Diagnostic; here they are only carried and rendered with str().
    """

    def __init__(self, diagnostics: list[object]) -> None:
        super().__init__("\n".join(str(d) for d in diagnostics) or "cannot use the stack file")
        self.diagnostics = diagnostics


class NotFound(PystackError):  # noqa: N818
    status = 404


class Conflict(PystackError):  # noqa: N818
    status = 409


class Forbidden(PystackError):  # noqa: N818
    status = 403


class NotModified(PystackError):  # noqa: N818
    status = 304


class Unsupported(PystackError):  # noqa: N818
    status = 501


class Unavailable(PystackError):  # noqa: N818
    status = 503


class EngineError(PystackError):
    status = 500


class StartError(EngineError):
    """The program of a container or exec cannot start. `exit_code` follows Docker: 125, 126 or 127."""

    status = 400

    def __init__(self, message: str, *, exit_code: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
