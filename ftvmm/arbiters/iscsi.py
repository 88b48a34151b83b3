"""A session with one logical unit of an iSCSI target, over libiscsi (user space, by ctypes).

It knows libiscsi and nothing else: SCSI commands go in as bytes and come out as bytes or as a typed error. No call
takes longer than it was given, and a session that was lost is lost: libiscsi is told never to log in again by itself,
or what was refused to a nexus would be carried out for the next one (R18).

Source: `iscsi/iscsi.h` and `iscsi/scsi-lowlevel.h` of libiscsi 1.19 (ABI 7); RFC 7143 (iSCSI).
"""

from __future__ import annotations

import ctypes
import math
import secrets
import select
import time
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint32, c_void_p
from typing import Any

_LIBRARY = "libiscsi.so.7"
_NORMAL_SESSION = 2
_TRANSFER_NOTHING, _TRANSFER_IN, _TRANSFER_OUT = 0, 1, 2
_GOOD, _CHECK_CONDITION, _RESERVATION_CONFLICT = 0x00, 0x02, 0x18
_UNIT_ATTENTION = 0x06
_SENSE_IN_WORDS = {
    0x2000: "it does not know this command",
    0x2400: "it does not know this form of the command",
    0x2500: "there is no such logical unit",
    0x2700: "it is write-protected",
    0x5504: "it has no room for a registration",
}
# What libiscsi says instead of a SCSI status begins here: redirected, cancelled, error, timeout.
_NO_SCSI_STATUS = 0x101
_LOGOUT_SECONDS_MAX = 0.2


class IscsiError(Exception):
    """A command was not carried out, or nobody knows."""


class LibraryMissingError(IscsiError):
    """libiscsi is not installed here, or has another ABI."""


class SessionLostError(IscsiError):
    """The session could not be had, or has ended. A command that was under way may have been carried out."""


class NoAnswerError(IscsiError):
    """No answer came in time. A command that was under way may have been carried out."""


class StatusError(IscsiError):
    """The logical unit refused a command, and did not carry it out.

    Attributes:
        status: the SCSI status (SAM-5, 5.3).
        sense_key: of the sense data (SPC-4, 4.5.6); 0 where there are none.
        sense_code: additional sense code and its qualifier, as one number (SPC-4, 4.5.6).
    """

    def __init__(self, status: int, sense_key: int, sense_code: int) -> None:
        sense = f", sense {sense_key:x}h/{sense_code:04x}h" if status == _CHECK_CONDITION else ""
        in_words = f" ({_SENSE_IN_WORDS[sense_code]})" if sense and sense_code in _SENSE_IN_WORDS else ""
        super().__init__(f"refused with SCSI status {status:02x}h{sense}{in_words}")
        self.status, self.sense_key, self.sense_code = status, sense_key, sense_code

    @property
    def is_unit_attention(self) -> bool:
        """Whether the logical unit first tells what has happened to it; nothing is wrong with the command."""
        return self.sense_key == _UNIT_ATTENTION


class ReservationConflictError(StatusError):
    """RESERVATION CONFLICT: another nexus holds the logical unit, or the key is not this nexus's."""

    def __init__(self) -> None:
        super().__init__(_RESERVATION_CONFLICT, 0, 0)
        self.args = ("RESERVATION CONFLICT",)


class _Sense(Structure):
    _fields_ = (("error_type", c_ubyte), ("key", c_int), ("code", c_int), ("specific", c_ubyte * 4))


class _Bytes(Structure):
    _fields_ = (("size", c_int), ("data", c_void_p))


class _Task(Structure):
    """`struct scsi_task`, as far as it is looked at."""

    _fields_ = (
        ("status", c_int),
        ("cdb_size", c_int),
        ("transfer_direction", c_int),
        ("transfer_bytes", c_int),
        ("cdb", c_ubyte * 16),
        ("residual_status", c_int),
        ("residual_bytes", c_size_t),
        ("sense", _Sense),
        ("data_in", _Bytes),
    )


class _DataOut(Structure):
    _fields_ = (("size", c_size_t), ("data", c_void_p))


# (context, status, command's data, private data)
_Callback = CFUNCTYPE(None, c_void_p, c_int, c_void_p, c_void_p)


def load() -> ctypes.CDLL:
    """libiscsi, with its functions' types.

    Raises:
        LibraryMissingError: it is not installed here.
    """
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise LibraryMissingError(f"needs {_LIBRARY} (Debian's libiscsi7): {error}") from error
    functions: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "iscsi_create_context": (c_void_p, (c_char_p,)),
        "iscsi_destroy_context": (c_int, (c_void_p,)),
        "iscsi_get_error": (c_char_p, (c_void_p,)),
        "iscsi_set_isid_random": (c_int, (c_void_p, c_uint32, c_uint32)),
        "iscsi_set_session_type": (c_int, (c_void_p, c_int)),
        "iscsi_set_targetname": (c_int, (c_void_p, c_char_p)),
        "iscsi_set_timeout": (c_int, (c_void_p, c_int)),
        "iscsi_set_noautoreconnect": (None, (c_void_p, c_int)),
        "iscsi_connect_async": (c_int, (c_void_p, c_char_p, _Callback, c_void_p)),
        "iscsi_login_async": (c_int, (c_void_p, _Callback, c_void_p)),
        "iscsi_logout_async": (c_int, (c_void_p, _Callback, c_void_p)),
        "iscsi_get_fd": (c_int, (c_void_p,)),
        "iscsi_which_events": (c_int, (c_void_p,)),
        "iscsi_service": (c_int, (c_void_p, c_int)),
        "iscsi_scsi_command_async": (c_int, (c_void_p, c_int, c_void_p, _Callback, POINTER(_DataOut), c_void_p)),
        "scsi_create_task": (c_void_p, (c_int, c_char_p, c_int, c_int)),
        "scsi_free_scsi_task": (None, (c_void_p,)),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class _Call:
    """What came of the call that is under way; the end of a connection is told by the call that made it."""

    status: int | None = None


class Session:
    """One session, which is one I_T nexus: its ISID is drawn anew and never used again. For one thread at a time.

    Args:
        portal: the target's address, as ADDRESS:PORT.
        target: its iSCSI name.
        lun: the logical unit's number.
        initiator: the iSCSI name to log in with.
        deadline: of CLOCK_MONOTONIC, in seconds: how long connecting and logging in may take.

    Raises:
        LibraryMissingError: libiscsi is not installed here.
        SessionLostError: the target is not there, or does not let anybody in.
        NoAnswerError: it does not answer in time.
    """

    def __init__(self, portal: str, target: str, lun: int, *, initiator: str, deadline: float) -> None:
        self._library, self._lun = load(), lun
        self._call = call = _Call()

        def ended(_context: int, status: int, _data: int, _private: int) -> None:
            call.status = status

        self._callback = _Callback(ended)
        self._context: int | None = self._library.iscsi_create_context(initiator.encode())
        if self._context is None:
            raise SessionLostError("libiscsi makes no context")
        self._library.iscsi_set_isid_random(self._context, secrets.randbits(24), secrets.randbits(16))
        self._library.iscsi_set_session_type(self._context, _NORMAL_SESSION)
        self._library.iscsi_set_targetname(self._context, target.encode())
        self._library.iscsi_set_noautoreconnect(self._context, 1)
        try:
            # Its own timeout is in whole seconds of the wall clock; it comes after the one that counts.
            whole_seconds = math.ceil(max(0.0, deadline - time.monotonic())) + 2
            self._library.iscsi_set_timeout(self._context, whole_seconds)
            self._open("connect", deadline, portal.encode())
            self._open("login", deadline)
        except BaseException:
            self._drop()
            raise

    def execute(self, cdb: bytes, *, read_bytes: int = 0, write: bytes = b"", deadline: float) -> bytes:
        """Has one command carried out.

        Args:
            cdb: its command descriptor block.
            read_bytes: how many bytes it may return at most; not beside `write`.
            write: what goes to the logical unit with it.
            deadline: of CLOCK_MONOTONIC, in seconds.

        Returns what the logical unit has sent.

        Raises:
            ReservationConflictError: another nexus's reservation forbids it, or its key is not this nexus's.
            StatusError: any other status but GOOD.
            NoAnswerError: in time none came; the session is over.
            SessionLostError: the session has ended.
        """
        if self._context is None:
            raise SessionLostError("the session has ended")
        direction = _TRANSFER_OUT if write else _TRANSFER_IN if read_bytes else _TRANSFER_NOTHING
        task = self._library.scsi_create_task(len(cdb), cdb, direction, len(write) or read_bytes)
        if task is None:
            raise SessionLostError("libiscsi makes no task")
        # libiscsi does not copy it.
        content = ctypes.create_string_buffer(write, len(write)) if write else None
        out = _DataOut(len(write), ctypes.cast(content, c_void_p)) if content is not None else None
        try:
            self._call.status = None
            pointer = byref(out) if out is not None else None
            if self._library.iscsi_scsi_command_async(self._context, self._lun, task, self._callback, pointer, None):
                raise self._lost("a command cannot be sent")
            self._await(deadline)
            return self._result(_Task.from_address(task))
        except (NoAnswerError, SessionLostError):
            # Only then does libiscsi hold the task no more.
            self._drop()
            raise
        finally:
            self._library.scsi_free_scsi_task(task)

    def close(self) -> None:
        """Logs out, if the target answers at once, and closes the connection."""
        if self._context is None:
            return
        try:
            self._call.status = None
            if self._library.iscsi_logout_async(self._context, self._callback, None) == 0:
                self._await(time.monotonic() + _LOGOUT_SECONDS_MAX)
        except IscsiError:
            pass
        finally:
            self._drop()

    def _open(self, step: str, deadline: float, *arguments: bytes) -> None:
        begin = getattr(self._library, f"iscsi_{step}_async")
        self._call.status = None
        if begin(self._context, *arguments, self._callback, None):
            raise self._lost(f"{step} failed")
        self._await(deadline, is_connecting=step == "connect")
        if self._call.status != _GOOD:
            raise self._lost(f"{step} failed")

    def _result(self, task: _Task) -> bytes:
        status = self._call.status
        if status == _GOOD:
            return ctypes.string_at(task.data_in.data, task.data_in.size) if task.data_in.data else b""
        if status == _RESERVATION_CONFLICT:
            raise ReservationConflictError
        if status is None or status >= _NO_SCSI_STATUS:
            raise self._lost("the session was lost")
        has_sense = status == _CHECK_CONDITION
        raise StatusError(status, task.sense.key if has_sense else 0, task.sense.code if has_sense else 0)

    def _await(self, deadline: float, *, is_connecting: bool = False) -> None:
        """Serves the connection until the call that is under way has ended."""
        while self._call.status is None:
            remaining_seconds = deadline - time.monotonic()
            if remaining_seconds <= 0:
                raise NoAnswerError("no answer in time")
            poll = select.poll()
            if (descriptor := self._library.iscsi_get_fd(self._context)) < 0:
                raise self._lost("the connection was closed")
            poll.register(descriptor, self._library.iscsi_which_events(self._context))
            happened = poll.poll(max(1, int(remaining_seconds * 1000)))
            if self._library.iscsi_service(self._context, happened[0][1] if happened else 0) < 0:
                # What libiscsi says of it is that it does not reconnect.
                raise SessionLostError("no connection could be made" if is_connecting else "the connection was lost")

    def _lost(self, what: str) -> SessionLostError:
        said: bytes | None = self._library.iscsi_get_error(self._context)
        reason = (said or b"").decode(errors="replace").strip()
        return SessionLostError(f"{what}: {reason}" if reason else what)

    def _drop(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            self._library.iscsi_destroy_context(context)

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None:
            self._drop()
